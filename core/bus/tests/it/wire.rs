//! Records of the bus: golden bytes of every version, both ways; invalid records are refused with
//! the reason; every message round-trips.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use sightline_bus::wire::schema::{Envelope, Payload};
use sightline_bus::wire::{self, Coding, MAX_BYTES, WireError};
use sightline_core::config::{CameraConfig, RtspTransport};
use sightline_core::message::{Origin, SCHEMA_VERSION};
use sightline_core::{
    BBox, CameraEvent, CameraId, CameraState, Crop, CropQuality, IndexEvent, NodeReport, PatchFeatures, Progress,
    Sighting, Timestamp, TrackEnd, TrackId,
};
use uuid::Uuid;

fn camera() -> CameraId {
    "north-gate".parse().unwrap()
}

fn origin(schema: u16) -> Origin {
    Origin { schema, producer: "ingest@node-1".into(), seq: 77, trace: Uuid::from_u128(0x0123_4567_89ab_cdef) }
}

fn track() -> TrackId {
    TrackId { born: Timestamp::from_micros(1_760_000_000_000_001), ordinal: 2 }
}

fn crop(schema: u16) -> Crop {
    Crop {
        origin: origin(schema),
        camera: camera(),
        track: track(),
        crop_no: 1,
        captured_at: Timestamp::from_micros(1_760_000_000_200_000),
        last_seen: Timestamp::from_micros(1_760_000_000_400_000),
        bbox: BBox { x0: 10.5, y0: 20.25, x1: 60.0, y1: 180.75 },
        frame_size: (1920, 1080),
        quality: CropQuality { score: 0.75, detector: 0.9, size: 0.5, sharpness: 0.25, completeness: 1.0 },
        jpeg: Bytes::from_static(b"\xff\xd8 a picture \xff\xd9"),
    }
}

fn sighting(schema: u16) -> Sighting {
    let numbers = [1.0f32, -2.0, 0.5, 0.25, 0.0, -127.0];
    let data: Vec<u8> = numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    Sighting {
        crop: crop(schema),
        model_id: "f7f77b91a22be90d".into(),
        feature: vec![0.6, 0.0, -0.8],
        patches: PatchFeatures { rows: 2, width: 3, data: data.into() },
    }
}

fn track_end(schema: u16) -> TrackEnd {
    TrackEnd {
        origin: origin(schema),
        camera: camera(),
        track: track(),
        first_seen: track().born,
        last_seen: Timestamp::from_micros(1_760_000_009_000_000),
        ended: true,
    }
}

fn progress(schema: u16) -> Progress {
    Progress {
        origin: origin(schema),
        camera: camera(),
        connection: 3,
        analysed_through: Timestamp::from_micros(-1),
        ended: false,
    }
}

fn report(schema: u16) -> NodeReport {
    NodeReport {
        origin: origin(schema),
        camera: camera(),
        at: Timestamp::from_micros(1_760_000_010_000_000),
        state: CameraState::Retrying,
        reason: Some("no frame for 5 s".into()),
        since: Timestamp::from_micros(1_760_000_009_500_000),
        connection: 3,
        frames_decoded: 1000,
        frames_analysed: 200,
        frames_dropped: 5,
        crops: 40,
        crops_dropped: 2,
        retry_in_s: Some(1.5),
        spooled_bytes: 123_456,
    }
}

/// A report of a camera that has just started: every optional field is absent.
fn short_report(schema: u16) -> NodeReport {
    NodeReport {
        state: CameraState::Decoding,
        reason: None,
        connection: 0,
        frames_decoded: 0,
        frames_analysed: 0,
        frames_dropped: 0,
        crops: 0,
        crops_dropped: 0,
        retry_in_s: None,
        spooled_bytes: 0,
        ..report(schema)
    }
}

/// A camera that no node can run, as reported since that state exists; readers from before read
/// `failed`.
fn refused_report(schema: u16) -> NodeReport {
    let reason = Some("all camera nodes are full".into());
    NodeReport { state: CameraState::Refused, reason, ..short_report(schema) }
}

/// The first version that has reports.
const WITH_REPORTS: u16 = 2;

/// Every kind of record of `schema` with its name, as this build encodes it.
fn records(schema: u16) -> Vec<(&'static str, Result<Bytes, WireError>)> {
    let sighting = || IndexEvent::Sighting(Box::new(sighting(schema)));
    vec![
        ("crop", wire::encode_camera_event(&CameraEvent::Crop(crop(schema)))),
        ("track_end", wire::encode_camera_event(&CameraEvent::TrackEnd(track_end(schema)))),
        ("progress", wire::encode_camera_event(&CameraEvent::Progress(progress(schema)))),
        ("sighting-f16", wire::encode_index_event(&sighting(), Coding::F16)),
        ("sighting-int8", wire::encode_index_event(&sighting(), Coding::Int8)),
        ("report", wire::encode_camera_event(&CameraEvent::Report(report(schema)))),
        ("report-short", wire::encode_index_event(&IndexEvent::Report(short_report(schema)), Coding::F16)),
        ("report-refused", wire::encode_camera_event(&CameraEvent::Report(refused_report(schema)))),
    ]
}

fn golden(schema: u16, name: &str) -> Bytes {
    let path = format!("{}/tests/golden/wire/v{schema}-{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let hex = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect::<Vec<u8>>().into()
}

#[test]
fn golden_bytes_of_every_version_that_is_read() {
    for schema in 1..=SCHEMA_VERSION {
        assert_eq!(wire::READABLE.contains(&schema), schema + 1 >= SCHEMA_VERSION);
        if !wire::READABLE.contains(&schema) {
            let refused = wire::decode_camera_event(golden(schema, "crop"));
            assert_eq!(refused, Err(WireError::Schema { found: schema.into() }));
            continue;
        }
        let read =
            |name: &str| wire::decode_camera_event(golden(schema, name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read("crop"), CameraEvent::Crop(crop(schema)));
        assert_eq!(read("track_end"), CameraEvent::TrackEnd(track_end(schema)));
        assert_eq!(read("progress"), CameraEvent::Progress(progress(schema)));
        let index =
            |name: &str| wire::decode_index_event(golden(schema, name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(index("sighting-f16"), IndexEvent::Sighting(Box::new(sighting(schema))));
        assert_eq!(index("track_end"), IndexEvent::TrackEnd(track_end(schema)));
        assert_eq!(index("progress"), IndexEvent::Progress(progress(schema)));
        let IndexEvent::Sighting(int8) = index("sighting-int8") else { panic!("a sighting") };
        assert_eq!((int8.crop, int8.feature), (crop(schema), sighting(schema).feature));
        assert_eq!((int8.patches.rows, int8.patches.width, int8.patches.data.len()), (2, 3, 12));
        if schema >= WITH_REPORTS {
            // The embedder passes reports on unchanged.
            assert_eq!(read("report"), CameraEvent::Report(report(schema)));
            assert_eq!(index("report"), IndexEvent::Report(report(schema)));
            assert_eq!(read("report-short"), CameraEvent::Report(short_report(schema)));
            assert_eq!(index("report-short"), IndexEvent::Report(short_report(schema)));
            assert_eq!(read("report-refused"), CameraEvent::Report(refused_report(schema)));
        }
    }
}

#[test]
fn this_version_is_written_to_the_byte() {
    for (name, bytes) in records(SCHEMA_VERSION) {
        let bytes = bytes.unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(bytes, golden(SCHEMA_VERSION, name), "{name} is written as {hex}");
    }
}

#[test]
fn other_versions_and_other_topics_are_refused_by_name() {
    for schema in (0..*wire::READABLE.start()).chain([SCHEMA_VERSION + 1, 999]) {
        let (_, record) = records(schema).remove(0);
        let e = wire::decode_camera_event(record.unwrap()).unwrap_err();
        assert_eq!(e, WireError::Schema { found: schema.into() });
        assert!(e.to_string().contains(&format!("version {schema}")), "{e}");
    }
    let sighting = wire::encode_index_event(&IndexEvent::Sighting(Box::new(sighting(1))), Coding::F16).unwrap();
    assert_eq!(wire::decode_camera_event(sighting), Err(WireError::Misplaced { found: "sighting" }));
    let crop = wire::encode_camera_event(&CameraEvent::Crop(crop(1))).unwrap();
    assert_eq!(wire::decode_index_event(crop), Err(WireError::Misplaced { found: "crop" }));
}

/// A record of the topic `cameras`, as it was written before cameras could name a node.
#[test]
fn a_camera_of_a_former_version_is_read_and_written_alike() {
    let former = r#"{"id":"gate","url":"rtsp://user:secret@cam/1","fps":5.0,"loop":false,"realtime":true}"#;
    let camera: CameraConfig = serde_json::from_str(former).unwrap();
    assert_eq!(camera.node, None);
    assert_eq!(serde_json::to_string(&camera).unwrap(), former);
    let pinned = CameraConfig { node: Some("ingest@rack-1".into()), ..camera };
    let text = serde_json::to_string(&pinned).unwrap();
    assert_eq!(text, format!("{},\"node\":\"ingest@rack-1\"}}", former.strip_suffix('}').unwrap()));
    assert_eq!(serde_json::from_str::<CameraConfig>(&text).unwrap(), pinned);
    // What a camera has for itself is written only where it has it.
    let own = CameraConfig { stall_seconds: Some(9.0), rtsp_transport: Some(RtspTransport::Udp), ..pinned };
    let text = serde_json::to_string(&own).unwrap();
    let mut written: Vec<(String, serde_json::Value)> =
        serde_json::from_str::<serde_json::Map<_, _>>(&text).unwrap().into_iter().collect();
    written.retain(|(key, _)| !["id", "url", "fps", "loop", "realtime", "node"].contains(&key.as_str()));
    written.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(written, [("rtsp_transport".into(), "udp".into()), ("stall_seconds".into(), 9.0.into())]);
    assert_eq!(serde_json::from_str::<CameraConfig>(&text).unwrap(), own);
}

#[test]
fn a_field_of_a_later_build_is_passed_over() {
    let record = wire::encode_camera_event(&CameraEvent::TrackEnd(track_end(1))).unwrap();
    // Field 900 of wire type 2 with three bytes.
    let later: Bytes = [&record[..], &[0xa2, 0x38, 3, 1, 2, 3]].concat().into();
    assert_eq!(wire::decode_camera_event(later), Ok(CameraEvent::TrackEnd(track_end(1))));
}

#[test]
fn invalid_records_are_refused_with_the_reason() {
    let good =
        Envelope::decode(wire::encode_index_event(&IndexEvent::Sighting(Box::new(sighting(1))), Coding::F16).unwrap());
    let good = good.unwrap();
    let said = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        wire::decode_index_event(envelope.encode_to_vec().into()).expect_err("refused").to_string()
    };
    let part = |change: fn(&mut sightline_bus::wire::schema::Sighting)| {
        said(&|e| {
            if let Some(Payload::Sighting(s)) = &mut e.payload {
                change(s);
            }
        })
    };
    assert!(said(&|e| e.trace = Bytes::from_static(b"short")).contains("trace"));
    assert!(said(&|e| e.camera = "North Gate".into()).contains("camera"));
    assert!(said(&|e| e.payload = None).contains("message is missing"));
    let state = |state: i32| {
        let record = wire::encode_camera_event(&CameraEvent::Report(report(SCHEMA_VERSION))).unwrap();
        let mut envelope = Envelope::decode(record).unwrap();
        let Some(Payload::Report(report)) = &mut envelope.payload else { panic!("a report") };
        report.state = state;
        wire::decode_camera_event(envelope.encode_to_vec().into()).expect_err("refused").to_string()
    };
    assert!(state(0).contains("report.state") && state(99).contains("state 99"));
    assert!(part(|s| s.crop = None).contains("sighting.crop is missing"));
    assert!(part(|s| s.patches = None).contains("sighting.patches is missing"));
    assert!(part(|s| s.feature[1] = f32::NAN).contains("NaN among"));
    assert!(part(|s| s.feature.clear()).contains("sighting.feature is missing"));
    assert!(part(|s| s.model_id.clear()).contains("model_id"));
    assert!(part(|s| s.crop.as_mut().unwrap().bbox.truncate(3)).contains("3 numbers, not 4"));
    assert!(part(|s| s.crop.as_mut().unwrap().crop_no = 256).contains("crop_no"));
    assert!(part(|s| s.crop.as_mut().unwrap().jpeg.clear()).contains("jpeg is missing"));
    assert!(part(|s| s.crop.as_mut().unwrap().track = None).contains("crop.track is missing"));
    assert!(part(|s| s.patches.as_mut().unwrap().rows = 9).contains("9 rows of 3"));
    let text = wire::decode_index_event(Bytes::from_static(b"{\"camera\": \"gate\"}")).unwrap_err();
    assert!(matches!(text, WireError::Malformed(_)) && text.to_string().contains("not a Sightline record"), "{text}");
}

#[test]
fn oversized_records_are_refused() {
    let large = Crop { jpeg: vec![7; MAX_BYTES].into(), ..crop(1) };
    let e = wire::encode_camera_event(&CameraEvent::Crop(large)).unwrap_err();
    assert!(matches!(e, WireError::TooLarge { bytes } if bytes > MAX_BYTES), "{e}");
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..400, flip in any::<u8>()) {
        let _ = wire::decode_camera_event(bytes.clone().into());
        let _ = wire::decode_index_event(bytes.into());
        // A valid record with one byte changed is the same, another one, or refused.
        let (_, record) = records(SCHEMA_VERSION).remove(at % 8);
        let mut record = record.unwrap().to_vec();
        let at = at % record.len();
        record[at] ^= flip;
        let _ = wire::decode_camera_event(record.clone().into());
        let _ = wire::decode_index_event(record.into());
    }

    #[test]
    fn events_come_back_as_they_were(micros in any::<i64>(), ordinal in any::<u16>(), crop_no in any::<u8>(), seq in any::<u64>(),
                                     jpeg in prop::collection::vec(any::<u8>(), 1..300), ended in any::<bool>()) {
        let at = Timestamp::from_micros(micros);
        let track = TrackId { born: at, ordinal };
        let origin = Origin { seq, ..origin(1) };
        let event = CameraEvent::Crop(Crop { origin: origin.clone(), track, crop_no, captured_at: at, jpeg: jpeg.into(), ..crop(1) });
        prop_assert_eq!(wire::decode_camera_event(wire::encode_camera_event(&event).unwrap()), Ok(event));
        let event = CameraEvent::TrackEnd(TrackEnd { origin: origin.clone(), track, first_seen: at, ended, ..track_end(1) });
        prop_assert_eq!(wire::decode_camera_event(wire::encode_camera_event(&event).unwrap()), Ok(event));
        let reason = ended.then(|| format!("reason {seq}"));
        let states = CameraState::ALL.into_iter().filter(|s| *s != CameraState::Searchable).collect::<Vec<_>>();
        let state = states[seq as usize % states.len()];
        let report = NodeReport { origin, at, since: at, state, reason, crops_dropped: seq, ..short_report(1) };
        let event = IndexEvent::Report(report.clone());
        prop_assert_eq!(wire::decode_index_event(wire::encode_index_event(&event, Coding::F16).unwrap()), Ok(event));
        let event = CameraEvent::Report(report);
        prop_assert_eq!(wire::decode_camera_event(wire::encode_camera_event(&event).unwrap()), Ok(event));
    }
}
