//! The nearest known name to one that is not known.

/// Returns the candidate closest to `unknown`, if it is close enough to be a slip of the hand.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&unknown.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_neighbour_and_a_stranger_finds_none() {
        let known = ["required", "description", "generate", "ref"];
        assert_eq!(nearest("requird", known), Some("required"));
        assert_eq!(nearest("generates", known), Some("generate"));
        assert_eq!(nearest("zzz", known), None);
    }
}
