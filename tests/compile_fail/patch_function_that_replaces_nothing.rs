midflight_patch::patch! {
    name: "mine",
    fn new() {}
}

fn main() {}
