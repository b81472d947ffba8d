midflight_patch::patch! {
    name: "mine",
    #[replaces("app::old")]
    fn new<T>(value: T) -> T {
        value
    }
}

fn main() {}
