//! Text preprocessing: the reference's caption cleaning, WordPiece tokens, and attribute phrases.

mod clean;
pub mod phrases;
mod statements;
mod tokenizer;

pub use clean::{MAX_WORDS, clean};
pub use statements::{NotUnderstood, Reason, Statement, Topic, Understanding, is_judged, understand};
pub use tokenizer::{Caption, CaptionTokenizer, pieces_at};
