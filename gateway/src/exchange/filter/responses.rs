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
    Some(asked.fold(own.clone(), |before, rule| before.then(&rule.edits)))
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
