//! What the exchange with a program says, and what is not taken for an answer.

use std::time::Duration;

use broker_core::secret::SecretValue;

use crate::exec::protocol::answer::*;
use crate::exec::protocol::request::*;
use crate::exec::protocol::shape::time;
use crate::provider::{DescribedVersion, ErrorKind, Retry, Stage};

fn fetched(answer: &str, count: usize) -> Vec<Result<Vec<u8>, (ErrorKind, String)>> {
    let results = results(answer.as_bytes(), count).into_iter();
    results
        .map(|result| match result {
            Ok(found) => Ok(found.value.expose().to_vec()),
            Err(problem) => Err((problem.kind, problem.cause)),
        })
        .collect()
}

fn kinds(answer: &str, count: usize) -> Vec<Option<ErrorKind>> {
    fetched(answer, count).into_iter().map(|result| result.err().map(|(kind, _)| kind)).collect()
}

#[test]
fn a_request_is_one_line_that_says_what_is_left_of_the_time() {
    let references = ["op://a/b?version=3", "op://c%23?stage=previous", "op://d"].map(|r| r.parse().unwrap());
    let asked = references.iter().enumerate().map(|(place, reference)| Asked::new(place, reference)).collect();
    let bytes = request("fetch", Duration::from_micros(1_234_567), Task::Many { references: asked }).unwrap();
    assert_eq!(
        std::str::from_utf8(&bytes).unwrap(),
        "{\"broker\":1,\"operation\":\"fetch\",\"seconds\":1.234,\"references\":[\
         {\"id\":\"0\",\"path\":\"a/b\",\"version\":\"3\"},\
         {\"id\":\"1\",\"path\":\"c#\",\"stage\":\"previous\"},{\"id\":\"2\",\"path\":\"d\"}]}\n"
    );
    let bytes = request("capabilities", Duration::from_secs(2), Task::None {}).unwrap();
    assert_eq!(&**bytes, b"{\"broker\":1,\"operation\":\"capabilities\",\"seconds\":2.0}\n");
}

#[test]
fn values_are_bytes_and_stand_where_their_id_says() {
    let answer = r#"{"broker":1,"results":[{"id":"1","base64":"AP8K\nDQ=="},{"id":"0","text":"a\u00e4\n$HOME"}]}"#;
    assert_eq!(fetched(answer, 2), [Ok("aä\n$HOME".as_bytes().to_vec()), Ok(b"\0\xff\n\r".to_vec())]);
    assert_eq!(fetched(r#"{"broker":1,"results":[{"id":"0","text":"null"}]}"#, 1), [Ok(b"null".to_vec())]);
    assert_eq!(fetched(r#"{"broker":1,"results":[{"id":"0","text":""}]}"#, 1), [Ok(Vec::new())]);
}

#[test]
fn a_result_that_makes_no_sense_spoils_no_other() {
    let malformed = Some(ErrorKind::Malformed);
    for broken in [
        r#"{"id":"1","text":null}"#,
        r#"{"id":"1","text":5}"#,
        r#"{"id":"1"}"#,
        r#"{"id":"1","txt":"x"}"#,
        r#"{"id":"1","text":"x","base64":"eA=="}"#,
        r#"{"id":"1","text":"x","error":"denied"}"#,
        r#"{"id":"1","text":"x","cause":"y"}"#,
        r#"{"id":"1","base64":"e"}"#,
        r#"{"id":"1","base64":"e A=="}"#,
        r#"{"id":"1","text":"\ud800"}"#,
        r#"{"id":"1","error":"broken"}"#,
        r#"{"id":"1","text":"x","version":""}"#,
        r#"{"id":"1","text":"x"},{"id":"1","text":"x"}"#,
        r#"{"id":1,"text":"x"}"#,
        r#"{"id":"1","id":"0","text":"x"}"#,
        r#"null"#,
    ] {
        let answer = format!(r#"{{"broker":1,"results":[{broken},{{"id":"0","text":"good"}}]}}"#);
        assert_eq!(kinds(&answer, 2), [None, malformed], "{broken}");
    }
    assert_eq!(kinds(r#"{"broker":1,"results":[{"id":"0","text":"x"}]}"#, 2), [None, malformed]);
}

#[test]
fn an_answer_to_another_question_is_refused_whole() {
    for other in ["2", "00", "+0", "-1", "x", "", "99999999999999999999999"] {
        let answer = format!(r#"{{"broker":1,"results":[{{"id":"0","text":"x"}},{{"id":"{other}","text":"y"}}]}}"#);
        assert_eq!(kinds(&answer, 2), [Some(ErrorKind::Malformed); 2], "{other}");
    }
    for answer in ["", " \n", "nonsense", "[]", "{}", r#"{"broker":1}"#, r#"{"broker":1,"results":{}}"#] {
        assert_eq!(kinds(answer, 1), [Some(ErrorKind::Malformed)], "{answer}");
    }
    let twice = r#"{"broker":1,"results":[]} {"broker":1,"results":[]}"#;
    assert_eq!(kinds(twice, 1), [Some(ErrorKind::Malformed)]);
    assert_eq!(kinds(r#"{"broker":2,"results":[]}"#, 1), [Some(ErrorKind::Unsupported)]);
}

#[test]
fn errors_have_our_kinds_and_their_advice() {
    let one = |error: &str| results(format!(r#"{{"broker":1,{error}}}"#).as_bytes(), 1).remove(0).err().unwrap();
    for (name, kind) in [
        ("not-found", ErrorKind::NotFound),
        ("denied", ErrorKind::Denied),
        ("unauthenticated", ErrorKind::Unauthenticated),
        ("malformed", ErrorKind::Malformed),
        ("unsupported", ErrorKind::Unsupported),
    ] {
        let problem = one(&format!(r#""error":"{name}","retry_after":7"#));
        assert_eq!((problem.kind, problem.retry), (kind, Retry::Never));
    }
    let problem = one(r#""error":"throttled","retry_after":7.5,"cause":"a\u001b[2J","hint":"wait""#);
    assert_eq!((problem.kind, problem.retry), (ErrorKind::Throttled, Retry::After(Duration::from_millis(7500))));
    assert_eq!((problem.cause.as_str(), problem.hint.as_deref()), ("a\\u{1b}[2J", Some("wait")));
    for pause in ["-1", "1e300", "3601"] {
        let problem = one(&format!(r#""error":"unavailable","retry_after":{pause}"#));
        assert_eq!(problem.retry, Retry::After(Duration::from_secs(1)), "{pause}");
    }
}

#[test]
fn no_cause_holds_a_value_of_the_same_exchange() {
    let answer = r#"{"broker":1,"results":[{"id":"0","text":"canary-1"},
        {"id":"1","error":"denied","cause":"no, but canary-1 is fine"},
        {"id":"2","error":"denied","cause":"no","hint":"try canary-1"},
        {"id":"3","error":"denied","cause":"plain"}]}"#;
    let causes: Vec<_> = fetched(answer, 4).into_iter().map(|result| result.err().map(|(_, cause)| cause)).collect();
    assert!(!format!("{causes:?}").contains("canary"), "{causes:?}");
    assert_eq!(causes[3].as_deref(), Some("plain"));
    let sent = SecretValue::from("line one\nline two".to_owned());
    let answer = br#"{"broker":1,"error":"denied","cause":"cannot store line one\nline two"}"#;
    assert!(!stored(answer, &sent).unwrap_err().cause.contains("line"));
}

#[test]
fn no_error_quotes_an_answer() {
    for answer in [
        r#"{"broker":"canary"}"#,
        r#"{"broker":1,"canary":1}"#,
        r#"{"broker":1,"results":"canary"}"#,
        r#"{"broker":1,"error":"canary"}"#,
        r#"{"broker":1,"results":[{"id":"0","canary":1}]}"#,
        r#"{"broker":1,"results":[{"id":"0","text":["canary"]}]}"#,
        r#"{"broker":1,"results":[{"id":"0","base64":"canary"}]}"#,
        r#"{"broker":1,"results":[{"id":"canary","text":"x"}]}"#,
        "canary",
    ] {
        let results = fetched(answer, 1);
        assert!(
            matches!(&results[..], [Err((ErrorKind::Malformed, cause))] if !cause.contains("canary")),
            "{results:?}"
        );
    }
}

#[test]
fn a_description_holds_no_value() {
    let answer = r#"{"broker":1,"created":1,"changed":2,"history":[{"version":"7","stages":["current"],"created":2},
        {"version":"6","usable":false}]}"#;
    let found = described(answer.as_bytes()).unwrap();
    assert_eq!((found.created, found.changed), (time(1), time(2)));
    let seven = DescribedVersion { id: "7".into(), stages: vec![Stage::Current], created: time(2), usable: true };
    let six = DescribedVersion { id: "6".into(), stages: vec![], created: None, usable: false };
    assert_eq!(found.versions, [seven, six]);
    assert!(described(br#"{"broker":1,"text":"x"}"#).is_err());
    assert!(described(br#"{"broker":1,"history":[{"version":"7","text":"x"}]}"#).is_err());
}
