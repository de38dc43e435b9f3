use proptest::prelude::*;

use super::*;

#[test]
fn dot_segments_go_however_they_are_spelled() {
    for (path, wanted) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/.", "/"),
        ("/..", "/"),
        ("/./", "/"),
        ("/../", "/"),
        ("/../..", "/"),
        ("/a/.", "/a/"),
        ("/a/./", "/a/"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../", "/a/"),
        ("/a/b/../../../c", "/c"),
        ("/a/./b/../c/", "/a/c/"),
        ("/a//../b", "/a/b"),
        ("/a/..//b", "//b"),
        ("/%2e%2e/a", "/a"),
        ("/a/%2E%2e/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e./b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/a/.../b", "/a/.../b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/..b", "/a/..b"),
        ("/a/b..", "/a/b.."),
    ] {
        assert_eq!(normal(path, PathPolicy::default()).as_deref(), Ok(wanted), "{path}");
    }
}

#[test]
fn everything_else_is_data() {
    for path in [
        "//",
        "/a//b",
        "//evil.example/a",
        "/a;b=c",
        "/;/a",
        "/a/;/b",
        "/a/..;/b",
        "/a\\b",
        "/a\\..\\b",
        "/a%2fb",
        "/a%2Fb",
        "/a/..%2fb",
        "/a%5cb",
        "/%2f",
        "/a%3fb",
        "/a%23b",
        "/a%20b",
        "/a%25b",
        "/a%252e%252e/b",
        "/a%0d%0ab",
        "/%e4%bd%a0",
        "/%c3%a9",
        "/%C9",
        "/@a:b",
        "/a|b{c}",
        "/a\"b",
        "/*",
    ] {
        assert_eq!(normal(path, PathPolicy::default()).as_deref(), Ok(path));
    }
}

// A rule for `/admin` must see what a backend that decodes will serve as `/admin` (RFC 3986 §6.2.2.2).
#[test]
fn escapes_of_unreserved_characters_become_those_characters() {
    for (path, wanted) in [
        ("/%61dmin", "/admin"),
        ("/%41%5a%30%39%2d%5f%7e", "/AZ09-_~"),
        ("/a%2ehtml", "/a.html"),
        ("/%2561", "/%2561"),
    ] {
        assert_eq!(normal(path, PathPolicy::default()).as_deref(), Ok(wanted), "{path}");
    }
}

#[test]
fn bad_escapes_are_refused() {
    for path in [
        "/%",
        "/%2",
        "/a%",
        "/%g0",
        "/%0g",
        "/%%",
        "/% 0",
        "/%+1",
        "/%-1",
        "/%00",
        "/a%00b",
        "/%u002f",
        "/%c0%ae",
        "/%c0%af",
        "/%C1%9c",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%2%65",
    ] {
        assert_eq!(normal(path, PathPolicy::default()), Err(WireError::Target), "{path}");
    }
}

#[test]
fn slashes_are_what_the_policy_says() {
    let decode = PathPolicy { encoded_slashes: EncodedSlashes::Decode, ..PathPolicy::default() };
    let refuse = PathPolicy { encoded_slashes: EncodedSlashes::Refuse, ..PathPolicy::default() };
    let merge = PathPolicy { repeated_slashes: RepeatedSlashes::Merge, ..PathPolicy::default() };
    let both =
        PathPolicy { encoded_slashes: EncodedSlashes::Decode, repeated_slashes: RepeatedSlashes::Merge };
    for (path, policy, wanted) in [
        ("/a%2fb", decode, Ok("/a/b")),
        ("/a/..%2Fb", decode, Ok("/b")),
        ("/a%2f%2e%2e%2fb", decode, Ok("/b")),
        ("/a%5c..%5Cb", decode, Ok("/a\\..\\b")),
        ("/a%252fb", decode, Ok("/a%252fb")),
        ("/a%2fb", refuse, Err(WireError::Target)),
        ("/a%5Cb", refuse, Err(WireError::Target)),
        ("/a%20b", refuse, Ok("/a%20b")),
        ("//a///b//", merge, Ok("/a/b/")),
        ("/a//../b", merge, Ok("/b")),
        ("/a/..//b", merge, Ok("/b")),
        ("/a%2f%2fb", merge, Ok("/a%2f%2fb")),
        ("/a%2f%2f/b", both, Ok("/a/b")),
    ] {
        assert_eq!(normal(path, policy).as_deref().map_err(|error| *error), wanted, "{path} {policy:?}");
    }
}

#[test]
fn a_target_is_split_at_its_first_question_mark_and_checked() {
    for (target, path_len, form) in [
        ("/a", 2, Form::Plain),
        ("/a?b", 2, Form::Plain),
        ("/a?b?c", 2, Form::Plain),
        ("/?%zz/../", 1, Form::Plain),
        ("?", 0, Form::Plain),
        ("/a.b/c", 6, Form::Plain),
        ("/a/.b", 5, Form::Suspect),
        ("/a%20", 5, Form::Suspect),
        ("//", 2, Form::Suspect),
    ] {
        assert_eq!(split(target.as_bytes()), Ok(Split { path_len, form }), "{target}");
    }
    for target in ["/a#b", "/a?b#c", "/a b", "/a\tb", "/\u{7f}", "/\u{e9}", "/?\u{e9}", "/\0", "/?\r\n"] {
        assert_eq!(split(target.as_bytes()), Err(WireError::Target), "{target:?}");
    }
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing_and_leaves_no_dot_segment(path in paths(), policy in policies()) {
        let Ok(once) = normal(&path, policy) else { return Ok(()) };
        prop_assert!(once.starts_with('/'), "{once}");
        prop_assert!(once.len() <= path.len(), "{once}");
        prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{once}");
        if policy.repeated_slashes == RepeatedSlashes::Merge {
            prop_assert!(!once.contains("//"), "{once}");
        }
        let twice = normal(&once, policy);
        prop_assert_eq!(twice.as_deref(), Ok(once.as_str()));
        // What `split` calls plain needs no normalising.
        prop_assert!(policy.repeated_slashes == RepeatedSlashes::Merge
            || split(path.as_bytes()).is_ok_and(|split| split.form == Form::Suspect)
            || once == path);
    }

    // The reference of RFC 3986 §5.2.4, on segments.
    #[test]
    fn dot_segments_are_removed_as_the_rfc_does(path in "(/[ab.]{0,3}){1,6}") {
        let segments: Vec<&str> = path[1..].split('/').collect();
        let mut kept: Vec<&str> = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            let last = at + 1 == segments.len();
            match *segment {
                "." => if last { kept.push("") },
                ".." => {
                    kept.pop();
                    if last { kept.push("") }
                }
                other => kept.push(other),
            }
        }
        let wanted = format!("/{}", kept.join("/"));
        prop_assert_eq!(normal(&path, PathPolicy::default()), Ok(wanted));
    }
}

fn normal(path: &str, policy: PathPolicy) -> Result<String, WireError> {
    let mut out = b"left over".to_vec();
    normalise(path.as_bytes(), policy, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn paths() -> impl Strategy<Value = String> {
    let parts = [
        "/", "/", ".", "..", "%2e", "%2E", "%2f", "%5C", "%25", "%41", "%c3", "%", "2e", "a", ";", "\\",
        "%00", "%c0%ae",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..14)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

fn policies() -> impl Strategy<Value = PathPolicy> {
    let encoded =
        proptest::sample::select(vec![EncodedSlashes::Keep, EncodedSlashes::Decode, EncodedSlashes::Refuse]);
    let repeated = proptest::sample::select(vec![RepeatedSlashes::Keep, RepeatedSlashes::Merge]);
    (encoded, repeated)
        .prop_map(|(encoded_slashes, repeated_slashes)| PathPolicy { encoded_slashes, repeated_slashes })
}
