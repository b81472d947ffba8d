midflight_patch::patch! {
    #[replaces("app::old")]
    fn new() {}
}

fn main() {}
