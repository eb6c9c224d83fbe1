//! The capture time of a frame. There are three sources, in order of trust:
//!
//! - *File*: the footage's start time (configured, else the file's modification time) plus the
//!   position in the footage.
//! - *Sender*: an RTSP camera states in its RTCP sender reports which wall-clock time (NTP) an RTP
//!   timestamp stands for. GStreamer attaches that time to the RTP packets
//!   (`add-reference-timestamp-meta`). It is read there, before the decoder, because not every
//!   parser and decoder passes it on, and is applied to frames by presentation time.
//! - *Estimate*: until the first sender report, for cameras that send none, and for all other live
//!   sources: the wall clock at the frame's running time. Running time is counted from the arrival
//!   of the first packets, smoothed by the jitter buffer against network jitter, and does not
//!   contain the latency that the pipeline adds afterwards (jitter buffer, decoder, queues): it is
//!   not the time of arrival at the analyser. It still contains the camera's encoding delay and the
//!   shortest network delay, some 10 to 300 ms. For HLS, whose segments are seconds old when they
//!   can be fetched, it is the time of play-out.
//!
//! A sender whose clock was evidently never set (more than [`MAX_SENDER_SKEW`] off ours) is
//! ignored.

use std::sync::Mutex;
use std::time::Duration;

use gstreamer as gst;
use serde::{Deserialize, Serialize};
use sightline_core::Timestamp;

/// Largest difference to our estimate at which a sender's clock is used. A synchronised sender
/// differs by network and encoder delay, well under a second; one that lost its time server drifts
/// by seconds a day. Beyond a minute its clock was never set, and the estimate is nearer to the
/// truth.
pub const MAX_SENDER_SKEW: Duration = Duration::from_secs(60);

/// Step by which capture time advances when its source stands still or goes back.
const TICK: Duration = Duration::from_millis(1);

/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// Source of a camera's capture times, see the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockSource {
    /// Start time plus position in the footage.
    File,
    /// The camera's own clock.
    Sender,
    /// This machine's wall clock at the frame's running time.
    Estimate,
}

/// A presentation time of the pipeline with the sender's time for it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SenderReference {
    pts: gst::ClockTime,
    sender: Timestamp,
}

/// Source of the capture times of one connection.
#[derive(Debug)]
pub enum Timeline {
    /// Start time of the footage, with earlier loops added.
    Media(Timestamp),
    /// The wall clock, or the sender's clock once it is known.
    Wall(WallClock),
}

/// The wall clock at the pipeline's running time 0, and the sender's newest time.
#[derive(Debug, Default)]
pub struct WallClock {
    anchor: Mutex<Option<Timestamp>>,
    reference: Mutex<Option<SenderReference>>,
}

impl WallClock {
    /// Records the sender's time of an RTP packet, if it carries one.
    pub fn note_sender_time(&self, buffer: &gst::BufferRef) {
        let Some(pts) = buffer.pts() else { return };
        let ntp = buffer
            .iter_meta::<gst::ReferenceTimestampMeta>()
            .find(|m| m.reference().structure(0).is_some_and(|s| s.name() == "timestamp/x-ntp"));
        if let Some(sender) = ntp.and_then(|m| from_ntp(m.timestamp())) {
            *lock(&self.reference) = Some(SenderReference { pts, sender });
        }
    }

    /// Capture time, its source and the sender's skew in seconds, for a frame with this
    /// presentation and running time. `running_now` is the pipeline's running time now, `now` the
    /// wall clock; both are used for the first frame only.
    pub fn capture_time(
        &self,
        pts: gst::ClockTime,
        running: gst::ClockTime,
        running_now: gst::ClockTime,
        now: Timestamp,
    ) -> (Timestamp, ClockSource, Option<f64>) {
        let anchor = *lock(&self.anchor).get_or_insert(now - Duration::from(running_now));
        let estimate = anchor + Duration::from(running);
        let Some(reference) = *lock(&self.reference) else { return (estimate, ClockSource::Estimate, None) };
        let sender = if pts >= reference.pts {
            reference.sender + Duration::from(pts - reference.pts)
        } else {
            reference.sender - Duration::from(reference.pts - pts)
        };
        let skew = sender.seconds_since(estimate);
        if skew.abs() <= MAX_SENDER_SKEW.as_secs_f64() {
            (sender, ClockSource::Sender, Some(skew))
        } else {
            (estimate, ClockSource::Estimate, Some(skew))
        }
    }
}

/// Keeps the capture times of one camera strictly increasing over all its connections, as trackers
/// and indexes expect.
#[derive(Debug, Default)]
pub struct MonotonicTime(Option<Timestamp>);

impl MonotonicTime {
    /// `at`, or the previous time plus 1 ms, whichever is later.
    pub fn next(&mut self, at: Timestamp) -> Timestamp {
        let next = match self.0 {
            Some(last) if at <= last => last + TICK,
            _ => at,
        };
        self.0 = Some(next);
        next
    }
}

fn from_ntp(ntp: gst::ClockTime) -> Option<Timestamp> {
    let us = ntp.nseconds().checked_sub(NTP_TO_UNIX * 1_000_000_000)? / 1000;
    i64::try_from(us).ok().map(Timestamp::from_micros)
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::ClockTime;

    const NOW: Timestamp = Timestamp::from_micros(1_780_000_000_000_000);

    fn packet(pts: ClockTime, sender: Timestamp, caps: &str) -> gst::Buffer {
        let mut b = gst::Buffer::new();
        let m = b.get_mut().expect("sole owner");
        m.set_pts(pts);
        let ntp = ClockTime::from_useconds(sender.as_micros() as u64 + NTP_TO_UNIX * 1_000_000);
        gst::ReferenceTimestampMeta::add(m, &gst::Caps::new_empty_simple(caps), ntp, ClockTime::NONE);
        b
    }

    #[test]
    fn without_a_sender_report_the_running_time_counts_from_the_anchor() {
        let clock = WallClock::default();
        let s = ClockTime::from_seconds;
        // The frame captured at running time 3 is processed at running time 5: the two seconds of
        // latency do not count.
        let (t, source, _) = clock.capture_time(s(100), s(3), s(5), NOW);
        assert_eq!((t, source), (NOW - Duration::from_secs(2), ClockSource::Estimate));
        let (t, ..) = clock.capture_time(s(104), s(7), s(99), NOW + Duration::from_secs(50));
        assert_eq!(t, NOW + Duration::from_secs(2));
    }

    #[test]
    fn a_sender_report_is_carried_over_by_presentation_time() {
        gst::init().expect("GStreamer");
        let (clock, s) = (WallClock::default(), ClockTime::from_seconds);
        clock.note_sender_time(&packet(s(10), NOW - Duration::from_secs(9), "timestamp/x-other"));
        assert_eq!(clock.capture_time(s(10), s(10), s(10), NOW).1, ClockSource::Estimate);
        clock.note_sender_time(&packet(s(12), NOW + Duration::from_millis(1700), "timestamp/x-ntp"));
        let (t, source, skew) = clock.capture_time(s(11), s(11), s(13), NOW);
        assert_eq!((t, source), (NOW + Duration::from_millis(700), ClockSource::Sender));
        assert!((skew.expect("known") + 0.3).abs() < 1e-6);
        assert_eq!(clock.capture_time(s(15), s(15), s(15), NOW).0, NOW + Duration::from_millis(4700));
    }

    #[test]
    fn a_sender_whose_clock_was_never_set_is_not_believed() {
        gst::init().expect("GStreamer");
        let (clock, s) = (WallClock::default(), ClockTime::from_seconds);
        clock.note_sender_time(&packet(s(1), Timestamp::from_micros(1_000_000), "timestamp/x-ntp"));
        let (t, source, skew) = clock.capture_time(s(1), s(1), s(1), NOW);
        assert_eq!((t, source), (NOW, ClockSource::Estimate));
        assert!(skew.expect("known") < -1e9);
    }

    #[test]
    fn capture_time_strictly_increases() {
        let mut m = MonotonicTime::default();
        let at = |ms: i64| Timestamp::from_micros(ms * 1000);
        assert_eq!([10, 20, 5, 20, 30].map(|ms| m.next(at(ms))), [10, 20, 21, 22, 30].map(at));
    }
}
