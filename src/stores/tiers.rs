//! Storage classes of S3 and access tiers of Azure, each in the other's words.
//!
//! An object keeps the word of the provider it came from. A store that is handed the other one's word translates it to what costs
//! about the same to keep and to read; where there is none, the bucket's or account's default holds.

/// A class as S3 knows it; `None` for its default.
pub(super) fn s3_class(class: &str) -> Option<&str> {
    match class {
        "Hot" => None,
        "Cool" => Some("STANDARD_IA"),
        "Cold" => Some("GLACIER_IR"),
        "Archive" => Some("GLACIER"),
        own => Some(own),
    }
}

/// A tier as Azure knows it; `None` for the account's default.
pub(super) fn azure_tier(class: &str) -> Option<&'static str> {
    match class {
        "Hot" => Some("Hot"),
        "Cool" | "STANDARD_IA" | "ONEZONE_IA" => Some("Cool"),
        "Cold" | "GLACIER_IR" => Some("Cold"),
        "Archive" | "GLACIER" | "DEEP_ARCHIVE" => Some("Archive"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{azure_tier, s3_class};

    #[test]
    fn each_providers_own_words_stay_and_the_others_are_translated() {
        assert_eq!(
            ["STANDARD_IA", "MADE_UP", "Cool", "Hot"].map(s3_class),
            [Some("STANDARD_IA"), Some("MADE_UP"), Some("STANDARD_IA"), None]
        );
        assert_eq!(["Cold", "GLACIER_IR", "STANDARD", "MADE_UP"].map(azure_tier), [Some("Cold"), Some("Cold"), None, None]);
    }
}
