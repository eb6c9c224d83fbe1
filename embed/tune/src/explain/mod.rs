//! Tests of a model's explanations ([`sightline_embed::Explanation`]) on drawn persons: `eval
//! --explain`.
//!
//! *Pointing game* (Zhang et al. 2016): a map for "red jacket" should have its largest weight where
//! the jacket is drawn. *Deletion* (Petsiuk et al. 2018): without the patches that a map highlights
//! the model should believe the phrase less. The first tests whether a map is right, the second
//! whether it shows what the model's score depends on. Each is compared with chance: an average
//! patch, and as many random patches.

mod case;
mod deletion;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::seq::IndexedRandom;
use rayon::prelude::*;
use serde::Serialize;

use super::contrast::{Contrast, Measured};
use super::facts::Part;
use super::gallery::drawn_picture;
use super::{Result, TrainError, streams};
use case::{Case, Drawn};
use deletion::Deletion;
use sightline_embed::{ExplainMethod, Highlight, Model};
use sightline_figures::{Corpus, stream};

/// Figures of one explanation method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodFigures {
    /// Name of the method.
    pub method: String,
    /// Whether this method is the one used in serving.
    pub default: bool,
    /// Share of the patch with the largest weight that shows the part, compared with the part's
    /// share of the picture.
    pub pointing: Contrast,
    /// `pointing` by part, in the order of the parts.
    pub parts: Vec<PartFigures>,
    /// `pointing` of phrases that are the whole query, one for each picture.
    pub pointing_alone: Contrast,
    /// Pointing compared with the maps of the query's other phrases, on pictures with several
    /// phrases: maps that are all alike, such as of the middle of the body, also beat an average
    /// patch, but not each other.
    pub pointing_swapped: Contrast,
    /// Fall of a phrase's logit without the patches that its map highlights, compared with as many
    /// random ones.
    pub phrase_deletion: Contrast,
    /// Fall of the match logit without the patches that the whole query's map highlights, compared
    /// with as many random ones.
    pub match_deletion: Contrast,
}

/// The pointing game for phrases about one part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartFigures {
    /// Name of the part, for example "upper".
    pub part: String,
    /// Figures as in [`MethodFigures::pointing`], for this part.
    pub pointing: Contrast,
}

/// Figures of all methods.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Number of drawn persons.
    pub persons: usize,
    /// Number of pictures of them; every view of a person counts.
    pub pictures: usize,
    /// Number of patches per picture.
    pub patches: usize,
    /// Number of patches that deletion blanks.
    pub blanked: usize,
    /// Figures of each method, in the order of [`ExplainMethod::ALL`].
    pub methods: Vec<MethodFigures>,
}

/// Result of a method for one phrase or one whole query.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    /// Share of the best patch that shows the part; 0 for a whole query.
    hit: f64,
    /// Mean of that share over the best patches of the query's other phrases; `None` without
    /// others.
    swapped: Option<f64>,
    /// Fall of the logit without the highlighted patches.
    fall: f64,
}

/// Kind of query about a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// A phrase of the query, about a part.
    Phrase(Part),
    /// A phrase that is a query by itself.
    Alone,
    /// The whole query.
    Whole,
}

/// One question about a picture, and the outcome of every method.
struct Answer {
    person: usize,
    question: Question,
    /// The part's share of the picture; 0 for a whole query.
    area: f64,
    /// Mean fall of the logit without random patches; not measured for [`Question::Alone`].
    random: f64,
    /// One outcome per method.
    outcomes: Vec<Outcome>,
}

/// Measures every method on pictures `0..views` of the persons `identities`, drawn by `corpus`.
/// `progress` receives the number of finished pictures and of all pictures.
///
/// # Errors
/// Errors of the model, or persons without any phrase to test.
pub fn measure(
    model: &Model,
    corpus: &Corpus,
    identities: Range<u64>,
    views: u64,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Figures> {
    let persons = (identities.end - identities.start) as usize;
    let pictures: Vec<(u64, u64)> = identities.clone().flat_map(|i| (0..views).map(move |view| (i, view))).collect();
    let done = AtomicUsize::new(0);
    let asked = pictures.par_iter().map(|&(identity, view)| {
        let asked = measure_picture(model, corpus, (identity, view), (identity - identities.start) as usize)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, pictures.len());
        Ok(asked)
    });
    let asked: Vec<Answer> = asked.collect::<Result<Vec<Vec<Answer>>>>()?.into_iter().flatten().collect();
    if asked.is_empty() {
        return Err(TrainError::Usage("no phrase is about anything that the pictures show: draw more persons".into()));
    }
    let method = |(at, method): (usize, &ExplainMethod)| {
        let contrast = |of: &dyn Fn(Question) -> bool, values: fn(&Answer, Outcome) -> Option<(f64, f64)>| {
            let chosen = asked.iter().filter(|asked| of(asked.question));
            let measured = chosen.filter_map(|asked| {
                let (reached, chance) = values(asked, asked.outcomes[at])?;
                Some(Measured { person: asked.person, reached, chance })
            });
            Contrast::of(&measured.collect::<Vec<_>>(), persons)
        };
        let points = |asked: &Answer, outcome: Outcome| Some((outcome.hit, asked.area));
        let swapped = |_: &Answer, outcome: Outcome| Some((outcome.hit, outcome.swapped?));
        let falls = |asked: &Answer, outcome: Outcome| Some((outcome.fall, asked.random));
        let is_phrase = |question| matches!(question, Question::Phrase(_));
        let part = |part: &Part| {
            let pointing = contrast(&|question| question == Question::Phrase(*part), points);
            (pointing.cases > 0).then(|| PartFigures { part: format!("{part:?}").to_lowercase(), pointing })
        };
        MethodFigures {
            method: method.to_string(),
            default: *method == ExplainMethod::default(),
            pointing: contrast(&is_phrase, points),
            parts: Part::ALL.iter().filter_map(part).collect(),
            pointing_alone: contrast(&|question| question == Question::Alone, points),
            pointing_swapped: contrast(&is_phrase, swapped),
            phrase_deletion: contrast(&is_phrase, falls),
            match_deletion: contrast(&|question| question == Question::Whole, falls),
        }
    };
    let patches = model.info().patch_rows - 1;
    Ok(Figures {
        persons,
        pictures: pictures.len(),
        patches,
        blanked: deletion::count(patches),
        methods: ExplainMethod::ALL.iter().enumerate().map(method).collect(),
    })
}

/// Measures one picture: every phrase about a visible part, and the query of all phrases.
fn measure_picture(model: &Model, corpus: &Corpus, (identity, view): (u64, u64), person: usize) -> Result<Vec<Answer>> {
    let mut rng = stream(identity, streams::EXPLANATION, view);
    let grid = model.network().arch().grid();
    let drawn = Drawn::of(corpus, (identity, view), grid, &mut rng);
    if drawn.cases.is_empty() {
        return Ok(Vec::new());
    }
    let (query, picture) = (model.encode_text(&drawn.query)?, drawn_picture(corpus, identity, view)?);
    let features = model.embed_images(std::slice::from_ref(&picture))?.swap_remove(0);
    let explain = |method: &ExplainMethod| model.explain_by(&query, &features.patches, *method);
    let explained = ExplainMethod::ALL.iter().map(explain).collect::<std::result::Result<Vec<_>, _>>()?;
    // A phrase that occurs twice is one statement, and a phrase that was cut off is none.
    let place = |case: &Case| {
        let touches = |h: &Highlight| h.bytes.start < case.bytes.end && case.bytes.start < h.bytes.end;
        explained.first()?.phrases.iter().position(touches)
    };
    let cases: Vec<(&Case, usize)> = drawn.cases.iter().filter_map(|case| Some((case, place(case)?))).collect();
    let pieces: Vec<_> = cases.iter().map(|(_, at)| explained[0].phrases[*at].pieces.clone()).collect();
    let deletion = Deletion::new(model, &query, &pieces, &picture, grid);
    let before = deletion.logits(&[Vec::<usize>::new()])?.swap_remove(0);
    let maps = explained.iter().flat_map(|e| cases.iter().map(|(_, at)| &e.phrases[*at].weights).chain([&e.whole]));
    let strongest: Vec<Vec<usize>> = maps.map(|map| deletion::strongest(map, deletion.count())).collect();
    let after = deletion.logits(&strongest)?;
    let random = deletion.logits(&deletion.random(&mut rng))?;
    let fall = |asked: usize, after: &[f32]| f64::from(before[asked] - after[asked]);
    let asked = |at: usize| {
        let case = cases.get(at).map(|(case, _)| *case);
        let outcome = |method: usize| {
            let nth = |at: usize| method * (cases.len() + 1) + at;
            let hit = |by: usize| case.map_or(0.0, |case| f64::from(case.shares[strongest[nth(by)][0]]));
            let others: Vec<f64> = (0..cases.len()).filter(|by| *by != at).map(hit).collect();
            let swapped = (!others.is_empty()).then(|| others.iter().sum::<f64>() / others.len() as f64);
            Outcome { hit: hit(at), swapped, fall: fall(at, &after[nth(at)]) }
        };
        Answer {
            person,
            question: case.map_or(Question::Whole, |case| Question::Phrase(case.part)),
            area: case.map_or(0.0, Case::area),
            random: random.iter().map(|after| fall(at, after)).sum::<f64>() / random.len() as f64,
            outcomes: (0..explained.len()).map(outcome).collect(),
        }
    };
    // The whole query comes after the phrases.
    let mut all: Vec<Answer> = (0..=cases.len()).map(asked).collect();
    if let Some((case, _)) = cases.choose(&mut rng) {
        let query = model.encode_text(&drawn.query[case.bytes.clone()])?;
        let hit = |method: &ExplainMethod| -> Result<Outcome> {
            let found = model.explain_by(&query, &features.patches, *method)?;
            let best = found.phrases.first().map(|phrase| deletion::strongest(&phrase.weights, 1)[0]);
            let hit = best.map_or(0.0, |best| f64::from(case.shares[best]));
            Ok(Outcome { hit, ..Outcome::default() })
        };
        let outcomes = ExplainMethod::ALL.iter().map(hit).collect::<Result<_>>()?;
        all.push(Answer { person, question: Question::Alone, area: case.area(), random: 0.0, outcomes });
    }
    Ok(all)
}
