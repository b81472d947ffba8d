//! The first version: date and time of day, as people write them.

use crate::day_and_second;
use std::time::SystemTime;

midflight_patch::patch! {
    name: "friendly-time",

    /// `当前时间:2006-01-02 15:04:05`: "the time is now", in UTC.
    #[replaces("time_service::service::format_time")]
    fn friendly_time(now: SystemTime) -> String {
        let (days, second) = day_and_second(now);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("当前时间:{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar.
///
/// Counted from 1 March of the year 0 in years that begin on that day, so that a leap day is the last of its
/// year. The calendar repeats every 400 years, an era, which are 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    // Less the leap days gone by: one in 1,461 days, but not in 36,524, and one more at the end of the era.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, any five months in a row have 153 days, as far as the year goes.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
