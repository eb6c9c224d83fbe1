//! From words to token ids: the reference's caption cleaning and WordPiece.

mod clean;
pub mod phrases;
mod tokenizer;

pub use clean::{MAX_WORDS, clean};
pub use tokenizer::{Caption, CaptionTokenizer};
