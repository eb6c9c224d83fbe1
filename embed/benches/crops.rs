//! Pictures a second of one embed worker with the model that ships, from JPEG to features: what
//! docker/SIZING.md plans with. Wall time and processor time: on a shared machine the second one
//! holds.
//!
//! `cargo bench -p sightline-embed --bench crops`; `SIGHTLINE_DEVICE=cuda:0` with the feature
//! `cuda` measures a GPU.

use std::time::Instant;

use image::codecs::jpeg::JpegEncoder;
use sightline_core::config::EmbedPrecision;
use sightline_embed::{Model, ModelFolder, decode_image};

/// A person of 200 pixels height, as JPEG of some 9 KB.
fn picture(seed: u32) -> Vec<u8> {
    let (width, height) = (90, 200);
    let pixel = |x: u32, y: u32| {
        let block = (x / 9 + 7 * (y / 11) + seed).wrapping_mul(2_654_435_761) >> 8;
        let noise = (x * 31 + y * 17 + seed).wrapping_mul(2_246_822_519) >> 28;
        [block as u8 / 2, (block >> 8) as u8 / 2, (y + noise) as u8]
    };
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 88).encode_image(&image).expect("it fits");
    jpeg
}

/// Processor seconds of this process so far.
fn processor() -> f64 {
    // SAFETY: getrusage writes one struct, which all zeros are a value of.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn main() {
    let device = std::env::var("SIGHTLINE_DEVICE").unwrap_or_else(|_| "cpu".into());
    let folder = ModelFolder::open("default".as_ref()).expect("the model that ships");
    let jpegs: Vec<Vec<u8>> = (0..64).map(picture).collect();
    let bytes = jpegs.iter().map(Vec::len).sum::<usize>() / jpegs.len();
    println!("pictures of {bytes} bytes");
    println!(
        "| device | arithmetic | batch | crops/s | wall, ms each | processor, ms each |\n|---|---|---|---|---|---|"
    );
    for precision in [EmbedPrecision::F32, EmbedPrecision::Auto] {
        let model = Model::load_as(&folder, &device, precision).expect("it loads");
        for batch in [1, 8, 32] {
            let run = |rounds: usize| {
                for round in 0..rounds {
                    let some = (0..batch).map(|i| &jpegs[(round * batch + i) % jpegs.len()]);
                    let images: Vec<_> = some.map(|j| decode_image(j).expect("it decodes")).collect();
                    std::hint::black_box(model.embed_images(&images).expect("it embeds"));
                }
            };
            run(4);
            let (rounds, start, cpu) = (512 / batch, Instant::now(), processor());
            run(rounds);
            let (n, wall, cpu) = ((rounds * batch) as f64, start.elapsed().as_secs_f64(), processor() - cpu);
            let info = model.info();
            println!(
                "| {} | {} | {batch} | {:.0} | {:.2} | {:.2} |",
                info.device,
                info.dtype,
                n / wall,
                wall / n * 1e3,
                cpu / n * 1e3
            );
        }
    }
}
