//! The nearest known name to one that is not known.

/// Returns the candidate closest to `unknown`, if it is close enough to be a slip of the hand.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        // One slip (swapped, missing, extra or wrong letter) counts whatever the length: `dve` is `dev`.
        let one_slip = unknown.len() > 2 && strsim::osa_distance(&unknown, &candidate) == 1;
        strsim::jaro_winkler(&unknown, &candidate) + if one_slip { 1.0 } else { 0.0 }
    };
    known
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
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
        assert_eq!(nearest("dve", ["prod", "dev", "migrate"]), Some("dev"));
    }
}
