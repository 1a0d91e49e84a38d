//! Dates of the Gregorian calendar from and to seconds since 1970-01-01 00:00:00 UTC.

/// A date and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const SECONDS_A_DAY: i64 = 86_400;
/// Years repeat after 400 years.
const DAYS_OF_400_YEARS: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;

/// Days from March 1st to the first of the month that is `month` months after March.
fn days_before(month: i64) -> i64 {
    (153 * month + 2) / 5
}

impl DateTime {
    /// The date that is `seconds` after the epoch.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_A_DAY).saturating_add(DAYS_TO_1970);
        let time = seconds.rem_euclid(SECONDS_A_DAY);
        let cycle = days.div_euclid(DAYS_OF_400_YEARS);
        let day = days.rem_euclid(DAYS_OF_400_YEARS);
        // Years begin in March here, so that a leap day is a year's last.
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let year = year + cycle * 400 + i64::from(month >= 10);
        let small = |value: i64| u8::try_from(value).unwrap_or(0);
        Self {
            year,
            month: small(if month < 10 { month + 3 } else { month - 9 }),
            day: small(day - days_before(month) + 1),
            hour: small(time / 3600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
        }
    }

    /// Seconds after the epoch. Fields out of their range count on, as 61 seconds are a minute and one.
    pub(super) fn seconds(&self) -> i64 {
        let months = i64::from(self.month) - 3;
        let year = self.year + months.div_euclid(12);
        let month = months.rem_euclid(12);
        let years = year.rem_euclid(400);
        let days = year.div_euclid(400) * DAYS_OF_400_YEARS + 365 * years + years / 4 - years / 100
            + days_before(month)
            + i64::from(self.day)
            - 1
            - DAYS_TO_1970;
        days * SECONDS_A_DAY
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }

    /// The day of the week, 1 for Sunday.
    pub(super) fn weekday(&self) -> u8 {
        let days = self.seconds().div_euclid(SECONDS_A_DAY);
        // 1970-01-01 was a Thursday.
        u8::try_from((days + 4).rem_euclid(7) + 1).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, date, weekday) in [
            (0, (1970, 1, 1, 0, 0, 0), 5),
            (951_782_400, (2000, 2, 29, 0, 0, 0), 3),
            (951_868_800, (2000, 3, 1, 0, 0, 0), 4),
            (1_709_210_096, (2024, 2, 29, 12, 34, 56), 5),
            (4_107_542_399, (2100, 2, 28, 23, 59, 59), 1),
            (4_107_542_400, (2100, 3, 1, 0, 0, 0), 2),
        ] {
            let got = DateTime::from_seconds(seconds);
            assert_eq!((got.year, got.month, got.day, got.hour, got.minute, got.second), date);
            assert_eq!(got.weekday(), weekday);
            assert_eq!(got.seconds(), seconds);
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in -100_000_000_000_i64..300_000_000_000) {
            prop_assert_eq!(DateTime::from_seconds(seconds).seconds(), seconds);
        }

        #[test]
        fn any_fields_are_some_time(
            year in 0_i64..25_600, month: u8, day: u8, hour: u8, minute: u8, second: u8,
        ) {
            let date = DateTime { year, month, day, hour, minute, second };
            DateTime::from_seconds(date.seconds());
        }
    }
}
