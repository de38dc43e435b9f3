//! Query parameter conditions (`HTTPQueryParamMatch`).

use wire::head::RequestView;

use super::{Holds, OwnRegexes, value_holds};
use crate::model::ValueMatch;

/// The index of the first condition that does not hold.
///
/// Names and values are compared as sent, without percent-decoding. Of a repeated parameter the first counts.
pub(crate) fn first_mismatch(
    conditions: &[ValueMatch],
    own: &mut OwnRegexes<'_>,
    view: &RequestView<'_>,
) -> Option<usize> {
    conditions.iter().position(|condition| {
        value_holds(&condition.value, own, view.query_param(condition.name.as_bytes())) == Holds::No
    })
}
