//! Changes to some responses of a rule: ALB's rules in the direction of the response. Pure.

use std::sync::Arc;

use routing::matcher;
use routing::model::{HeaderEdits, ResponseRule, ValueMatch, ValuePattern};
use routing::subject::Subject;
use wire::head::ResponseView;

/// The rule's own changes with those that this response asks for, one after the other; `None` = it asks for none.
pub(in crate::exchange) fn changed(
    own: &HeaderEdits,
    rules: &[Arc<ResponseRule>],
    subject: &Subject<'_>,
    response: &ResponseView<'_>,
) -> Option<HeaderEdits> {
    let mut asked = rules.iter().filter(|rule| is_about(rule, subject, response)).peekable();
    asked.peek()?;
    Some(asked.fold(own.clone(), |before, rule| after(&before, &rule.edits)))
}

fn is_about(rule: &ResponseRule, subject: &Subject<'_>, response: &ResponseView<'_>) -> bool {
    (rule.statuses.is_empty() || rule.statuses.contains(&response.head.status))
        && rule.headers.iter().all(|group| group.iter().any(|wanted| has(response, wanted)))
        && matcher::mismatch(&rule.request, subject).is_none()
}

/// Has one of its fields of this name that value?
fn has(response: &ResponseView<'_>, wanted: &ValueMatch) -> bool {
    let name = wanted.name.as_bytes();
    let fields = response.head.headers.iter();
    let mut named = fields.filter(|field| field.name.of(response.bytes).eq_ignore_ascii_case(name));
    named.any(|field| {
        let value = field.value.of(response.bytes);
        match &wanted.value {
            ValuePattern::Exact(exact) => value == exact.as_bytes(),
            ValuePattern::Regex(regex) => regex.is_match(value),
        }
    })
}

/// Two sets of changes as one: what the second takes away is not written by the first.
fn after(first: &HeaderEdits, second: &HeaderEdits) -> HeaderEdits {
    let is_taken =
        |name: &Arc<str>| second.remove.contains(name) || second.set.iter().any(|(set, _)| set == name);
    let kept = |pairs: &[(Arc<str>, Arc<str>)]| -> Vec<_> {
        pairs.iter().filter(|(name, _)| !is_taken(name)).cloned().collect()
    };
    // What the first has set replaces the backend's, also where the second takes it away.
    let replaced = first.set.iter().map(|(name, _)| name).filter(|name| is_taken(name));
    HeaderEdits {
        set: kept(&first.set).into_iter().chain(second.set.iter().cloned()).collect(),
        add: kept(&first.add).into_iter().chain(second.add.iter().cloned()).collect(),
        remove: first.remove.iter().chain(replaced).chain(&second.remove).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Box<[(Arc<str>, Arc<str>)]> {
        pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect()
    }

    #[test]
    fn what_comes_later_wins() {
        let first = HeaderEdits {
            set: pairs(&[("a", "1"), ("b", "1")]),
            add: pairs(&[("c", "1")]),
            remove: ["d".into()].into(),
        };
        let second =
            HeaderEdits { set: pairs(&[("a", "2")]), add: Box::default(), remove: ["c".into()].into() };
        let both = after(&first, &second);
        assert_eq!(both.set, pairs(&[("b", "1"), ("a", "2")]));
        assert_eq!(both.add, pairs(&[]));
        assert_eq!(both.remove.iter().map(|name| &**name).collect::<Vec<_>>(), ["d", "a", "c"]);
        assert_eq!(after(&first, &HeaderEdits::default()), first);
    }
}
