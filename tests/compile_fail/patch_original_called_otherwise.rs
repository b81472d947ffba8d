midflight_patch::patch! {
    name: "mine",
    #[replaces("app::old", original = OLD)]
    fn new(number: u64) -> u64 {
        OLD.get()("seven")
    }
}

fn main() {}
