//! Caption cleaning, equal to the reference's `pre_caption` to the character (specification,
//! section 2).

/// Largest number of words of a cleaned caption.
pub const MAX_WORDS: usize = 72;

/// Cleans a caption: lower case; each of `. ! " ( ) * # : ; ~` becomes a space; runs of two or more
/// white-space characters become one space (a lone tab or line break stays what it is); trimmed;
/// the first [`MAX_WORDS`] words. The flag is true if words were cut off.
pub fn clean(raw: &str) -> (String, bool) {
    let mut spaced = String::with_capacity(raw.len());
    let mut run: Option<(char, usize)> = None;
    for c in raw.to_lowercase().chars() {
        let c = if ".!\"()*#:;~".contains(c) { ' ' } else { c };
        if is_space(c) {
            run = Some(run.map_or((c, 1), |(first, n)| (first, n + 1)));
            continue;
        }
        flush(&mut run, &mut spaced);
        spaced.push(c);
    }
    flush(&mut run, &mut spaced);
    let trimmed = spaced.trim_end_matches('\n').trim_matches(' ');
    match trimmed.match_indices(' ').nth(MAX_WORDS - 1) {
        Some((end, _)) => (trimmed[..end].to_owned(), true),
        None => (trimmed.to_owned(), false),
    }
}

fn flush(run: &mut Option<(char, usize)>, out: &mut String) {
    if let Some((first, n)) = run.take() {
        out.push(if n == 1 { first } else { ' ' });
    }
}

/// Python's `\s`: Unicode white space and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cuts_after_72_words() {
        let long = ["word"; 73].join(" ");
        let (text, cut) = clean(&long);
        assert!(cut && text.split(' ').count() == 72);
        assert!(!clean(&["word"; 72].join("  ")).1);
    }

    proptest! {
        #[test]
        fn cleaning_twice_changes_nothing_more(raw in "[a-zA-Z.!\"()*#:;~ ,'/-]{0,120}") {
            let once = clean(&raw).0;
            prop_assert_eq!(clean(&once).0, once.clone());
            prop_assert!(!once.contains("  ") && once == once.trim());
        }

        #[test]
        fn no_text_panics(raw in "\\PC{0,200}") {
            clean(&raw);
        }
    }
}
