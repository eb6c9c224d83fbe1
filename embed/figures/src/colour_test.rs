//! Test that a garment looks like the colour its caption names: a drawn "red jacket" is red.
//!
//! Whole pictures are judged, with light, folds, scenery and camera. Which pixels show the garment
//! is the renderer's own knowledge: the scene is drawn twice from one random stream, the second
//! time with another albedo, and the pixels that differ are those of the garment.

use rand::{SeedableRng, rngs::StdRng};

use crate::camera;
use crate::colour::{DENIM_COLOURS, GARMENT_COLOURS, NamedColour, Shade};
use crate::person::{Garment, LowerKind, Pattern, Person, UpperKind};
use crate::scene::compose;

/// Views over which a colour is averaged: single cameras have casts and exposures of their own.
const VIEWS: u64 = 8;
/// CIE Lab distance from which two colours are clearly different, as red from blue or grey. Nearer
/// ones mix up on purpose: cameras lift black towards grey and dull orange towards tan, as real
/// ones do.
const CLEARLY_DIFFERENT: f32 = 60.0;

/// CIE 1976 L*a*b* of an sRGB colour 0..255, white point D65.
fn lab(rgb: [f32; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(|v| (v / 255.0).powf(2.2));
    let xyz = [
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    ];
    let [x, y, z] = xyz.map(|t| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

/// Garment of a person that is coloured.
#[derive(Debug, Clone, Copy)]
enum Worn {
    Top(UpperKind),
    Outer(UpperKind),
    Lower(LowerKind),
}

/// `person` in a plain garment of `shade`, with nothing over it.
fn wearing(person: &Person, worn: Worn, shade: Shade) -> Person {
    let mut person = Person { dress: None, outer: None, bag: None, outer_open: false, ..person.clone() };
    person.top = Garment { pattern: Pattern::Plain, kind: UpperKind::TShirt, ..person.top };
    match worn {
        Worn::Top(kind) => person.top = Garment { kind, shade, ..person.top },
        Worn::Outer(kind) => person.outer = Some(Garment { kind, shade, ..person.top }),
        Worn::Lower(kind) => person.lower = Garment { kind, shade, pattern: Pattern::Plain, ..person.lower },
    }
    person
}

/// Sum and number of the pixels that show the garment in one picture, sRGB 0..255.
fn garment_pixels(worn: Worn, palette: &[NamedColour], colour: usize, view: u64) -> ([f32; 3], f32) {
    let mut rng = StdRng::seed_from_u64(1000 * colour as u64 + view);
    let person = Person::sample(&mut rng);
    let shade = Shade::sample_of(palette, colour, &mut rng);
    let marked = Shade { albedo: shade.albedo.map(|v| if v < 0.3 { 0.9 } else { 0.05 }), ..shade };
    let marked = compose(&wearing(&person, worn, marked), None, &mut rng.clone()).canvas;
    let drawn = compose(&wearing(&person, worn, shade), None, &mut rng);
    let picture = camera::expose(&drawn.canvas, drawn.width, drawn.height, &mut rng);
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (x, y, pixel) in picture.enumerate_pixels() {
        // The pixel of the canvas in the middle of the pixel of the crop.
        let on_canvas = |at: u32, from: usize, to: usize| ((at as f32 + 0.5) * to as f32 / from as f32) as usize;
        let (cx, cy) = (on_canvas(x, drawn.width, drawn.canvas.width), on_canvas(y, drawn.height, drawn.canvas.height));
        let at = cy * drawn.canvas.width + cx;
        if drawn.canvas.rgb[at] != marked.rgb[at] {
            for (total, value) in sum.iter_mut().zip(pixel.0) {
                *total += f32::from(value);
            }
            count += 1.0;
        }
    }
    (sum, count)
}

/// Asserts that every colour of `palette` looks like itself on the garments `worn`, which take
/// turns: its mean is nearer to its own reference than to any that is clearly different.
fn assert_looks_as_named(worn: &[Worn], palette: &[NamedColour]) {
    let reference = |named: &NamedColour| lab(named.centre.map(f32::from));
    for (colour, named) in palette.iter().enumerate() {
        // Every view counts the same, however many pixels it has.
        let mut mean = [0.0; 3];
        let mut seen = 0.0;
        for view in 0..VIEWS {
            let (sum, count) = garment_pixels(worn[view as usize % worn.len()], palette, colour, view);
            if count > 20.0 {
                mean = std::array::from_fn(|c| mean[c] + sum[c] / count);
                seen += 1.0;
            }
        }
        assert!(seen >= 4.0, "{worn:?} in {:?} shows in {seen} of {VIEWS} pictures", named.words[0]);
        let mean = mean.map(|v| v / seen);
        let own = distance(lab(mean), reference(named));
        for other in palette {
            if distance(reference(other), reference(named)) > CLEARLY_DIFFERENT {
                let far = distance(lab(mean), reference(other));
                assert!(
                    own < far,
                    "{worn:?} in {:?} looks {:?}: mean sRGB {mean:.0?}, {own:.0} and {far:.0} apart",
                    named.words[0],
                    other.words[0],
                );
            }
        }
    }
}

#[test]
fn upper_garments_look_like_the_colours_that_captions_name() {
    assert_looks_as_named(&[Worn::Top(UpperKind::TShirt), Worn::Outer(UpperKind::Jacket)], &GARMENT_COLOURS);
}

#[test]
fn lower_garments_look_like_the_colours_that_captions_name() {
    assert_looks_as_named(&[Worn::Lower(LowerKind::Trousers)], &GARMENT_COLOURS);
    assert_looks_as_named(&[Worn::Lower(LowerKind::Jeans)], &DENIM_COLOURS);
}
