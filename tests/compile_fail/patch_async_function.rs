midflight_patch::patch! {
    name: "mine",
    #[replaces("app::old")]
    async fn new() {}
}

fn main() {}
