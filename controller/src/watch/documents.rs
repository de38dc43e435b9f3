//! One file's documents, remembered by their text: an edit of one of a thousand costs the parsing of one.
//!
//! YAML documents end where a line begins with `---`: nothing inside a document may begin a line so (YAML 1.2.2
//! §9.1.2), and nothing of one document is visible in the next. So each is parsed alone, and one whose text was
//! parsed before is not parsed again. Where a cut is in doubt (directives, `...`, lone carriage returns) and in
//! JSON the whole file is one document.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::digest;
use crate::object::{Object, ObjectId, Source};
use crate::verdict::{Note, Notes};
use crate::watch::decode::{self, DOCUMENTS_MAX, Format};

/// An object of a file.
#[derive(Debug)]
pub(crate) enum Held {
    /// In a document that has not changed, and known to be in force as it is.
    Same(ObjectId, u64),
    /// Just decoded, with its digest.
    Fresh(Box<(Object, Notes)>, u64),
}

impl Held {
    pub(crate) fn id(&self) -> &ObjectId {
        match self {
            Self::Same(id, _) => id,
            Self::Fresh(object, _) => &object.0.id,
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        match self {
            Self::Same(_, digest) | Self::Fresh(_, digest) => *digest,
        }
    }
}

/// What a file holds, in its order.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) objects: Vec<Held>,
    pub(crate) problems: Vec<(Option<ObjectId>, Note)>,
    pub(crate) documents: Documents,
}

/// What came of each document of a file, by its text.
#[derive(Debug, Default)]
pub(crate) struct Documents(HashMap<Key, Arc<Known>>);

/// Digest and length of a document's text.
type Key = (u64, usize);

#[derive(Debug)]
struct Known {
    objects: Vec<(ObjectId, u64)>,
    problems: Vec<(Option<ObjectId>, Note)>,
}

impl Documents {
    /// Decodes a file of which these documents are known. `in_force` tells whether an object with this digest needs
    /// no second look.
    ///
    /// # Errors
    /// What is wrong, when the text is not well-formed: then nothing of it may be used.
    pub(crate) fn decode(
        &self,
        text: &str,
        format: Format,
        source: &Source,
        in_force: impl Fn(&ObjectId, u64) -> bool,
    ) -> Result<Content, String> {
        let parts = match format {
            Format::Yaml => split(text),
            Format::Json => vec![text],
        };
        let mut content = Content::default();
        for part in parts {
            let key = (FixedState::default().hash_one(part), part.len());
            let known = self.0.get(&key);
            let same = known.filter(|known| known.objects.iter().all(|(id, digest)| in_force(id, *digest)));
            if let Some(known) = same {
                let objects = known.objects.iter().map(|(id, digest)| Held::Same(id.clone(), *digest));
                content.objects.extend(objects);
                content.problems.extend_from_slice(&known.problems);
                content.documents.0.insert(key, known.clone());
                continue;
            }
            // What the whole file's parser says names the line in the file, not in the part.
            let decoded = decode::decode_text(part, format, source)
                .map_err(|error| decode::decode_text(text, format, source).err().unwrap_or(error))?;
            let mut objects = Vec::with_capacity(decoded.objects.len());
            for (object, notes) in decoded.objects {
                let digest = digest::of(&(&object, &notes));
                objects.push((object.id.clone(), digest));
                content.objects.push(Held::Fresh(Box::new((object, notes)), digest));
            }
            content.problems.extend_from_slice(&decoded.problems);
            content.documents.0.insert(key, Arc::new(Known { objects, problems: decoded.problems }));
        }
        Ok(content)
    }
}

/// The documents of a YAML file; the whole text where a cut is in doubt. Together they are the text.
fn split(text: &str) -> Vec<&str> {
    let doubtful = |line: &str| {
        line.starts_with('%')
            || line.starts_with("...")
            || line.trim_end_matches('\n').trim_end_matches('\r').contains('\r')
    };
    let begins = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let (mut parts, mut start, mut at, mut blank) = (Vec::new(), 0, 0, true);
    for line in text.split_inclusive('\n') {
        if doubtful(line) || parts.len() >= DOCUMENTS_MAX {
            return vec![text];
        }
        // Comments before the first document belong to it.
        if begins(line) && !blank {
            parts.push(&text[start..at]);
            start = at;
        }
        blank &= is_blank(line) && !begins(line);
        at += line.len();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INGRESS: &str =
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: NAME}\nspec: {}\n";

    fn shown(text: &str, parts: &[&str]) -> Result<Vec<String>, ()> {
        let _ = text;
        let mut all = Vec::new();
        for part in parts {
            let decoded = decode::decode_text(part, Format::Yaml, &Source::Fleet).map_err(|_| ())?;
            all.extend(decoded.objects.iter().map(|object| format!("{object:?}")));
            all.extend(decoded.problems.iter().map(|problem| format!("{problem:?}")));
        }
        all.sort();
        Ok(all)
    }

    #[test]
    fn documents_are_cut_where_a_line_begins_with_three_dashes() {
        let text = "# top\n---\na: 1\n--- # b\nb: |\n  ---\n---c: 2\n---";
        assert_eq!(split(text), ["# top\n---\na: 1\n", "--- # b\nb: |\n  ---\n---c: 2\n", "---"]);
        for whole in ["%YAML 1.2\n---\na: 1\n---\nb: 1\n", "a: 1\n...\n---\nb: 1\n", "a: 1\r---\rb: 1"] {
            assert_eq!(split(whole), [whole]);
        }
    }

    #[test]
    fn only_a_document_that_changed_is_decoded_again() {
        let of = |names: &[&str]| {
            names.iter().map(|name| INGRESS.replace("NAME", name)).collect::<Vec<_>>().join("---\n")
        };
        let fresh = |content: &Content| -> Vec<String> {
            let fresh = content.objects.iter().filter(|held| matches!(held, Held::Fresh(..)));
            fresh.map(|held| held.id().name.to_string()).collect()
        };
        let decode = |documents: &Documents, names: &[&str]| {
            documents.decode(&of(names), Format::Yaml, &Source::Fleet, |_, _| true).unwrap()
        };
        let first = decode(&Documents::default(), &["a", "b", "c"]);
        assert_eq!(fresh(&first), ["a", "b", "c"]);
        let second = decode(&first.documents, &["a", "x", "c"]);
        assert_eq!(fresh(&second), ["x"]);
        let third = decode(&second.documents, &["a", "b", "c"]);
        assert_eq!(fresh(&third), ["b"], "what was left behind is forgotten");
        let doubted =
            third.documents.decode(&of(&["a", "b"]), Format::Yaml, &Source::Fleet, |id, _| &*id.name != "a");
        assert_eq!(fresh(&doubted.unwrap()), ["a"], "what is not in force is looked at again");
    }

    #[test]
    fn an_error_names_the_line_in_the_file() {
        let text = format!("{INGRESS}---\na: [\n");
        let error =
            Documents::default().decode(&text, Format::Yaml, &Source::Fleet, |_, _| true).unwrap_err();
        assert_eq!(Err(error), decode::decode_text(&text, Format::Yaml, &Source::Fleet).map(drop));
    }

    proptest! {
        /// Cut or whole, a file means the same.
        #[test]
        fn a_file_in_parts_is_the_file(picks in proptest::collection::vec(0..14usize, 0..8)) {
            let pieces = [
                "---\n", "--- \n", "---\r\n", "# note\n", "\n", "a: 1\n", "--- {kind: X}\n", "b: |\n  x\n  ---\n", "c: \"x\n",
                "  y\"\n", "- 1\n", "---x: 1\n", "kind: Service\napiVersion: v1\nmetadata: {name: s}\n", "&a b: *a\n",
            ];
            let text: String = picks.iter().map(|pick| pieces[*pick]).collect();
            let parts = split(&text);
            prop_assert_eq!(parts.concat(), text.clone());
            prop_assert_eq!(shown(&text, &parts), shown(&text, &[&text]));
        }
    }
}
