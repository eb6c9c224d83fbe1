//! Colours of things, and the words for them.
//!
//! A word means a set of colours: "blue" includes navy, light blue and steel blue. `maybe` holds
//! colours that some people call by that word and others do not (dark grey is "black" to many); of
//! them a phrase is neither true nor false.
//!
//! The groups are those of the yardstick's phrases: navy and sky blue are blue; maroon, wine and
//! burgundy are red; cream is white; lilac is purple; olive, lime and mint are green; rust is brown
//! or orange; beige, tan, khaki and cream are neighbours, each other's `maybe`.

use super::sets::bit_set;

/// The finest colours that are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Colour {
    Black,
    DarkGrey,
    Grey,
    LightGrey,
    White,
    Cream,
    Beige,
    Tan,
    Khaki,
    Brown,
    DarkBrown,
    Rust,
    Olive,
    Green,
    DarkGreen,
    LightGreen,
    Teal,
    Navy,
    Blue,
    SteelBlue,
    LightBlue,
    Purple,
    Lilac,
    Pink,
    BrightPink,
    Red,
    Maroon,
    Orange,
    Coral,
    Yellow,
    Mustard,
    Blond,
    Ginger,
}

use Colour::*;

impl Colour {
    /// All colours.
    pub const ALL: &[Self] = &[
        Black, DarkGrey, Grey, LightGrey, White, Cream, Beige, Tan, Khaki, Brown, DarkBrown, Rust, Olive, Green,
        DarkGreen, LightGreen, Teal, Navy, Blue, SteelBlue, LightBlue, Purple, Lilac, Pink, BrightPink, Red, Maroon,
        Orange, Coral, Yellow, Mustard, Blond, Ginger,
    ];
}

bit_set! {
    /// Colours that a word may mean.
    ColourSet of Colour
}

/// Words for a colour, and the colours that they mean.
#[derive(Debug)]
pub struct ColourTerm {
    /// Words that mean the same, the most common first.
    pub words: &'static [&'static str],
    /// Colours that the word means in a label, which uses a plain word only where no finer one fits
    /// ("blue" where it is neither navy nor light blue).
    pub label: ColourSet,
    /// Colours that the word means.
    pub yes: ColourSet,
    /// Colours that the word means to some people only.
    pub maybe: ColourSet,
}

const fn term(words: &'static [&'static str], yes: &[Colour], maybe: &[Colour]) -> ColourTerm {
    ColourTerm { words, label: ColourSet::of(yes), yes: ColourSet::of(yes), maybe: ColourSet::of(maybe) }
}

impl ColourTerm {
    /// Sets the narrower meaning that the word has in labels.
    const fn in_labels(self, label: &[Colour]) -> Self {
        Self { label: ColourSet::of(label), ..self }
    }
}

/// Words for the colours of clothes and things.
pub static THING_COLOURS: &[ColourTerm] = &[
    term(&["black", "jet black"], &[Black], &[DarkGrey, Navy, DarkBrown]),
    term(&["grey", "gray", "silver"], &[Grey, DarkGrey, LightGrey], &[SteelBlue, Khaki]).in_labels(&[Grey]),
    term(&["dark grey", "charcoal", "dark gray"], &[DarkGrey], &[Black, Grey]),
    term(&["light grey", "pale grey", "light gray"], &[LightGrey], &[Grey, White, Cream]),
    term(&["white"], &[White, Cream], &[LightGrey, Beige]).in_labels(&[White]),
    term(&["cream", "off-white", "ivory"], &[Cream], &[White, Beige]),
    term(&["beige", "sand", "light beige"], &[Beige], &[Cream, Tan, Khaki]),
    term(&["tan", "camel", "light brown"], &[Tan], &[Beige, Brown, Khaki]),
    term(&["khaki", "light khaki"], &[Khaki], &[Beige, Tan, Olive]),
    term(&["brown"], &[Brown, DarkBrown, Rust], &[Tan, Maroon, Beige]).in_labels(&[Brown]),
    term(&["dark brown", "chocolate brown"], &[DarkBrown], &[Brown, Black]),
    term(&["rust", "rusty brown"], &[Rust], &[Brown, Orange, Red, Maroon]),
    term(&["green"], &[Green, DarkGreen, LightGreen, Olive], &[Teal, Khaki]).in_labels(&[Green]),
    term(&["olive green", "olive", "dark olive", "army green"], &[Olive], &[Khaki, Green, DarkGreen]),
    term(&["dark green", "forest green", "bottle green"], &[DarkGreen], &[Green, Olive, Black]),
    term(
        &["light green", "lime green", "neon green", "mint green", "pale green", "bright green"],
        &[LightGreen],
        &[Green, Yellow],
    ),
    term(&["teal", "turquoise"], &[Teal], &[Green, Blue, LightBlue, DarkGreen, LightGreen, SteelBlue]),
    term(&["blue"], &[Blue, Navy, LightBlue, SteelBlue], &[Teal]).in_labels(&[Blue, SteelBlue]),
    term(&["navy", "navy blue", "dark blue", "dark navy"], &[Navy], &[Blue, Black, SteelBlue]),
    term(&["bright blue", "royal blue", "cobalt blue"], &[Blue], &[LightBlue, SteelBlue, Navy, Teal]),
    term(&["grey blue", "steel blue", "slate blue", "blue grey"], &[SteelBlue], &[Blue, LightBlue, Grey, Navy]),
    term(&["light blue", "pale blue", "sky blue", "faded blue"], &[LightBlue], &[Blue, SteelBlue, White]),
    term(&["purple", "violet"], &[Purple, Lilac], &[BrightPink, Maroon, Navy, Blue]).in_labels(&[Purple]),
    term(&["lilac", "lavender", "mauve", "light purple"], &[Lilac], &[Purple, Pink, LightGrey, LightBlue]),
    term(&["dark purple", "plum"], &[Purple], &[Maroon, Navy, Black]),
    term(&["pink"], &[Pink, BrightPink], &[Coral, Lilac, Red]),
    term(&["light pink", "pale pink", "dusty pink"], &[Pink], &[Coral, Lilac, BrightPink, White, Beige]),
    term(&["bright pink", "hot pink", "magenta"], &[BrightPink], &[Pink, Red, Purple]),
    term(&["red"], &[Red, Maroon], &[Rust, Coral, Orange, BrightPink]).in_labels(&[Red]),
    term(&["bright red", "crimson", "scarlet"], &[Red], &[Maroon, Orange, Coral]),
    term(&["dark red", "maroon", "burgundy", "wine red"], &[Maroon], &[Red, Rust, Purple, DarkBrown]),
    term(&["orange", "bright orange"], &[Orange], &[Coral, Rust, Red, Mustard, Yellow]),
    term(&["coral", "salmon pink", "salmon"], &[Coral], &[Pink, Orange, Red]),
    term(&["yellow"], &[Yellow, Mustard], &[Cream, LightGreen, Orange]).in_labels(&[Yellow]),
    term(&["bright yellow", "neon yellow", "lemon yellow"], &[Yellow], &[LightGreen, Mustard]),
    term(&["mustard yellow", "mustard", "ochre", "gold"], &[Mustard], &[Yellow, Tan, Orange, Rust]),
    term(
        &["dark"],
        &[Black, DarkGrey, Navy, DarkBrown, DarkGreen, Maroon],
        &[Grey, Brown, Olive, Purple, Rust, Blue, SteelBlue, Green, Red],
    ),
    term(
        &["light", "pale", "light-coloured"],
        &[White, Cream, LightGrey, Beige, LightBlue],
        &[Tan, Pink, Lilac, Yellow, LightGreen, Khaki, Grey, Coral, SteelBlue],
    ),
];

/// Words for the colours of hair.
pub static HAIR_COLOURS: &[ColourTerm] = &[
    term(&["dark"], &[Black, DarkBrown], &[Brown, DarkGrey]),
    term(&["black"], &[Black], &[DarkBrown, DarkGrey]),
    term(&["brown"], &[Brown, DarkBrown, Tan], &[Black, Blond, Ginger]).in_labels(&[Brown]),
    term(&["dark brown"], &[DarkBrown], &[Black, Brown]),
    term(&["light brown"], &[Tan], &[Brown, Blond]),
    term(&["blond", "blonde", "fair"], &[Blond], &[Tan, Grey, White, LightGrey]),
    term(&["red", "ginger", "reddish"], &[Ginger], &[Brown, Tan, Blond, DarkBrown]),
    term(&["grey", "gray", "greying"], &[Grey, LightGrey, DarkGrey], &[White, Blond]),
    term(&["white"], &[White], &[Grey, Blond, LightGrey]),
];

/// Colours of one thing; each is the set of colours that its word may mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Colours {
    /// Colours that one would name the thing by; empty if they are unknown.
    pub main: Vec<ColourSet>,
    /// Colours of prints, trims, stripes and sleeves.
    pub minor: Vec<ColourSet>,
}

impl Colours {
    /// Colours of a thing of one colour.
    pub fn one(colour: Colour) -> Self {
        Self { main: vec![ColourSet::of(&[colour])], minor: Vec::new() }
    }

    /// Whether a word that means `yes`, or perhaps `maybe`, is true of the thing; `None` if that is
    /// open.
    pub fn are(&self, yes: ColourSet, maybe: ColourSet) -> Option<bool> {
        let any = yes.or(maybe);
        match () {
            () if self.main.is_empty() => None,
            () if self.main.iter().any(|colour| colour.within(yes)) => Some(true),
            () if self.main.iter().chain(&self.minor).any(|colour| colour.meets(any)) => None,
            () => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(colours: &Colours, word: &str) -> Option<bool> {
        let term = THING_COLOURS.iter().find(|term| term.words.contains(&word)).expect("a word");
        colours.are(term.yes, term.maybe)
    }

    #[test]
    fn words_say_more_than_one_colour() {
        for (colour, word) in
            [(Navy, "blue"), (Maroon, "red"), (Cream, "white"), (Lilac, "purple"), (Olive, "green"), (Navy, "dark")]
        {
            assert_eq!(is(&Colours::one(colour), word), Some(true), "{colour:?} is {word}");
        }
        assert_eq!(is(&Colours::one(Navy), "black"), None, "some call it so");
        assert_eq!(is(&Colours::one(Red), "blue"), Some(false));
        assert_eq!(is(&Colours::default(), "blue"), None);
    }

    #[test]
    fn a_word_of_several_colours_is_not_one_of_them() {
        let term = THING_COLOURS.iter().find(|term| term.words[0] == "blue").expect("a word");
        let blue = Colours { main: vec![term.label], minor: Vec::new() };
        assert_eq!((is(&blue, "blue"), is(&blue, "navy"), is(&blue, "black")), (Some(true), None, Some(false)));
    }

    #[test]
    fn a_print_does_not_name_a_shirt_but_leaves_doubt() {
        let printed = Colours { main: vec![ColourSet::of(&[White])], minor: vec![ColourSet::of(&[Red])] };
        assert_eq!(
            (is(&printed, "white"), is(&printed, "red"), is(&printed, "green")),
            (Some(true), None, Some(false))
        );
    }

    #[test]
    fn no_colour_is_both_sure_and_unsure_and_no_word_means_two_things() {
        for table in [THING_COLOURS, HAIR_COLOURS] {
            assert!(table.iter().all(|term| !term.yes.meets(term.maybe) && term.label.within(term.yes)));
            let mut words: Vec<&str> = table.iter().flat_map(|term| term.words).copied().collect();
            let all = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), all);
        }
    }
}
