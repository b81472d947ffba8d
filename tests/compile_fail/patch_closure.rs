// A path is a name; a closure has none.
midflight_patch::patch! {
    name: "mine",
    "app::old" => |number: u64| number as fn(u64) -> u64,
}

fn main() {}
