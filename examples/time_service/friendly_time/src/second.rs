//! The second version: greets, and leaves the time to whatever it was put on.

use crate::day_and_second;
use std::time::SystemTime;

midflight_patch::patch! {
    name: "friendly-time-2",

    /// `您好!今天是星期一。` and the text of the original: "Good day! Today is Monday."
    #[replaces("time_service::service::format_time", original = FORMAT_TIME)]
    fn friendlier_time(now: SystemTime) -> String {
        let (days, _) = day_and_second(now);
        format!("您好!今天是星期{}。{}", weekday(days), FORMAT_TIME.get()(now))
    }
}

/// The day of the week that is `days` after 1970-01-01, a Thursday; as in 星期一, Monday.
fn weekday(days: u64) -> char {
    ['四', '五', '六', '日', '一', '二', '三'][(days % 7) as usize]
}
