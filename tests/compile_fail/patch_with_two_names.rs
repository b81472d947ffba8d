midflight_patch::patch! {
    name: "one",
    name: "two",
}

fn main() {}
