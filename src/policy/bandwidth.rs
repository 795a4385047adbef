//! `bandwidth` of a `[[site]]`: what may go to it and come from it in a second, by the time of day.

use std::{fmt, str::FromStr};

use bytesize::ByteSize;

use super::{
    document::{Findings, Path},
    typed::{TypedBandwidth, TypedHours},
};

/// What holds in some hours of the day. Of several the first that fits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BandwidthHours {
    /// From and until; `None` for all day.
    pub window: Option<(DayTime, DayTime)>,
    /// Most bytes in a second to the site; `None` for no limit.
    pub upload: Option<u64>,
    /// Most bytes in a second from the site; `None` for no limit.
    pub download: Option<u64>,
}

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayTime {
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// By UTC, and not by this machine's own clock.
    pub is_utc: bool,
}

/// A slower line would not carry the pieces of one body within their deadlines. Bytes per second.
const LEAST_RATE: u64 = 16_000;

impl fmt::Display for DayTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02}:{:02}{}", self.hour, self.minute, if self.is_utc { "Z" } else { "" })
    }
}

/// `bandwidth` of a site.
pub fn bandwidth(typed: TypedBandwidth, path: &Path, findings: &mut Findings<'_>) -> Vec<BandwidthHours> {
    let listed = match typed {
        TypedBandwidth::Rate(text) => {
            let rate = rate(Some(text), path, findings);
            return vec![BandwidthHours { window: None, upload: rate, download: rate }];
        }
        TypedBandwidth::Hours(listed) => listed,
    };
    let mut all = Vec::new();
    let mut whole_day = false;
    for (index, typed) in listed.into_iter().enumerate() {
        let Some(typed) = typed else { continue };
        let place = path.index(index);
        if whole_day {
            findings.add(&place, "never holds: the one before it has no from and until, and so holds all day; put that one last");
        }
        let hours = hours(typed, &place, findings);
        whole_day |= hours.window.is_none();
        all.push(hours);
    }
    all
}

fn hours(typed: TypedHours, path: &Path, findings: &mut Findings<'_>) -> BandwidthHours {
    let [says_from, says_until, says_rate] = ["from", "until", "rate"].map(|key| findings.is_there(&path.key(key)));
    if says_from != says_until {
        findings.add(path, "has one of from and until; give both, or neither for all day");
    }
    if !says_rate && !findings.is_there(&path.key("upload")) && !findings.is_there(&path.key("download")) {
        findings.add(
            path,
            "says no speed; give a rate such as \"20 MB/s\" for both directions, or upload and download, or \"unlimited\"",
        );
    }
    let from = time(typed.from, &path.key("from"), findings);
    let until = time(typed.until, &path.key("until"), findings);
    let window = from.zip(until);
    if let Some((from, until)) = window {
        if from.is_utc != until.is_utc {
            findings.add(
                path,
                "has one time by UTC and one by this machine's clock; write Z after both of from and until, or after none",
            );
        } else if from == until {
            findings.add(path, "ends when it begins; leave out from and until where it holds all day");
        }
    }
    let both = rate(typed.rate, &path.key("rate"), findings);
    let (says_upload, says_download) = (typed.upload.is_some(), typed.download.is_some());
    let upload = rate(typed.upload, &path.key("upload"), findings);
    let download = rate(typed.download, &path.key("download"), findings);
    BandwidthHours {
        window,
        upload: if says_upload { upload } else { both },
        download: if says_download { download } else { both },
    }
}

fn time(text: Option<String>, path: &Path, findings: &mut Findings<'_>) -> Option<DayTime> {
    let text = text?;
    let (clock, is_utc) = text.strip_suffix('Z').map_or((text.as_str(), false), |clock| (clock, true));
    let number = |digits: &str, most: u32| {
        let is_two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|number| is_two && *number <= most)
    };
    let read = clock.split_once(':').and_then(|(hour, minute)| Some((number(hour, 23)?, number(minute, 59)?)));
    if read.is_none() {
        findings.add(
            path,
            "is no time of day; should be hours and minutes such as \"08:00\" by this machine's clock, or \"08:00Z\" by UTC",
        );
    }
    read.map(|(hour, minute)| DayTime { hour, minute, is_utc })
}

/// Bytes in a second; `None` for no limit, and for what is wrong, which is said.
fn rate(text: Option<String>, path: &Path, findings: &mut Findings<'_>) -> Option<u64> {
    let text = text?;
    let word = text.trim();
    if word == "unlimited" {
        return None;
    }
    let Some(size) = word.strip_suffix("/s").map(str::trim_end) else {
        findings.add(path, "is no speed; should be a size in a second such as \"20 MB/s\" or \"160 Mbit/s\", or \"unlimited\"");
        return None;
    };
    let bytes = match size.strip_suffix("bit") {
        Some(bits) => ByteSize::from_str(&format!("{}B", bits.trim_end())).map(|bits| bits.as_u64() / 8),
        None => ByteSize::from_str(size).map(|bytes| bytes.as_u64()),
    };
    match bytes {
        Ok(bytes) if bytes >= LEAST_RATE => Some(bytes),
        Ok(_) => {
            findings.add(path, "is less than \"16 KB/s\", with which nothing comes to its end; make it more");
            None
        }
        Err(_) => {
            findings.add(path, "is no speed; should be a size in a second such as \"20 MB/s\" or \"160 Mbit/s\", or \"unlimited\"");
            None
        }
    }
}
