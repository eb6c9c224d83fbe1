//! The flags of the second stage of matching, against mined negatives.

use clap::Args;
use sightline_tune::mined::Mined;

/// A second stage of ATP. A flag that is not given leaves what the preset says.
#[derive(Args, Clone)]
pub struct MinedArgs {
    /// Steps of a second stage of matching, after --steps: encoders frozen, the decoder against the pictures that re-ranking
    /// will show it, the best by cosine of a gallery of training pictures; 0 for none.
    #[arg(long)]
    pub mined_steps: Option<usize>,
    /// Pictures whose features are kept for it, at most.
    #[arg(long)]
    mined_pictures: Option<usize>,
    /// Pictures of the gallery of a step, some of those.
    #[arg(long)]
    mined_gallery: Option<usize>,
    /// Negatives are drawn from so many of the nearest by cosine.
    #[arg(long)]
    mined_top: Option<usize>,
    /// Texts of a step.
    #[arg(long)]
    mined_texts: Option<usize>,
    /// Negatives of each text.
    #[arg(long)]
    mined_negatives: Option<usize>,
    /// Weight of a softmax over each text's candidates beside the verdict on each pair by itself; 0 for none.
    #[arg(long)]
    mined_contrast: Option<f64>,
    /// Highest learning rate of the stage; it falls linearly to zero.
    #[arg(long)]
    mined_lr: Option<f64>,
    /// Train the whole text side in it, which is the decoder too, held to the pictures by the global loss.
    #[arg(long)]
    mined_text: Option<bool>,
}

impl MinedArgs {
    /// `before` with every flag that was given; none with 0 steps.
    pub fn mined(&self, before: Option<Mined>) -> Option<Mined> {
        let mut mined = before.unwrap_or_default();
        let set = |field: &mut usize, value: Option<usize>| *field = value.unwrap_or(*field);
        set(&mut mined.steps, self.mined_steps);
        set(&mut mined.pictures, self.mined_pictures);
        set(&mut mined.gallery, self.mined_gallery);
        set(&mut mined.top, self.mined_top);
        set(&mut mined.texts, self.mined_texts);
        set(&mut mined.negatives, self.mined_negatives);
        mined.contrast = self.mined_contrast.unwrap_or(mined.contrast);
        mined.lr = self.mined_lr.unwrap_or(mined.lr);
        mined.text = self.mined_text.unwrap_or(mined.text);
        (mined.steps > 0).then_some(mined)
    }
}
