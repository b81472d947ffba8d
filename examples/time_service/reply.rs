//! What a reply says. The whole body is read, and it has to tell a time in the range that the client's own
//! clock allows: whatever is not exactly one of the known forms is none.

use std::fmt;
use std::ops::RangeInclusive;

/// The form of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `1136214245`, of the service itself.
    Plain,
    /// `当前时间:2006-01-02 15:04:05`, of the patch's first version.
    Friendly,
    /// `您好!今天是星期一。` of the second version, and then the first one's form.
    GreetingFriendly,
    /// The second version's greeting, and then the plain form.
    GreetingPlain,
}

impl Form {
    pub(crate) const ALL: [Self; 4] =
        [Self::Plain, Self::Friendly, Self::GreetingFriendly, Self::GreetingPlain];

    /// The form of a reply, if it has one and tells one of the `seconds` since 1970.
    pub(crate) fn of(body: &str, seconds: &RangeInclusive<u64>) -> Option<Self> {
        let text = body.strip_suffix('\n')?;
        let (form, told) = match text.strip_prefix("您好!今天是星期") {
            None => time(text)?,
            Some(greeting) => {
                let (day, text) = greeting.split_once('。')?;
                let (form, told) = time(text)?;
                let form = if form == Self::Plain { Self::GreetingPlain } else { Self::GreetingFriendly };
                (weekday(told) == day).then_some((form, told))?
            }
        };
        seconds.contains(&told).then_some(form)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Friendly => "friendly",
            Self::GreetingFriendly => "greeting+friendly",
            Self::GreetingPlain => "greeting+plain",
        })
    }
}

fn time(text: &str) -> Option<(Form, u64)> {
    match text.strip_prefix("当前时间:") {
        None => Some((Form::Plain, digits(text)?)),
        Some(time) => Some((Form::Friendly, seconds(time)?)),
    }
}

/// Seconds from 1970 to a `2006-01-02 15:04:05`.
fn seconds(text: &str) -> Option<u64> {
    let marks = [(4, "-"), (7, "-"), (10, " "), (13, ":"), (16, ":")];
    if text.len() != 19 || marks.iter().any(|&(at, mark)| text.get(at..=at) != Some(mark)) {
        return None;
    }
    let number = |from: usize, to: usize, allowed: RangeInclusive<u64>| {
        digits(text.get(from..to)?).filter(|number| allowed.contains(number))
    };
    let (year, month, day) = (number(0, 4, 1970..=9999)?, number(5, 7, 1..=12)?, number(8, 10, 1..=31)?);
    let (hour, minute, second) = (number(11, 13, 0..=23)?, number(14, 16, 0..=59)?, number(17, 19, 0..=59)?);
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01 to a date. The month's days are counted here one by one; the patch computes the other
/// way, so neither repeats a mistake of the other.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let years: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30];
    let months: u64 = (1..month).zip(lengths).map(|(_, length)| length).sum();
    years + months + day - 1
}

fn weekday(seconds: u64) -> &'static str {
    ["四", "五", "六", "日", "一", "二", "三"][(seconds / 86_400 % 7) as usize]
}

/// A number of digits only: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
