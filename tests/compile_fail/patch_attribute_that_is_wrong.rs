midflight_patch::patch! {
    name: "mine",
    #[replaces(app::old)]
    fn new() {}
}

fn main() {}
