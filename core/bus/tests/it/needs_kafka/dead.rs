//! Dead letters on a real broker: kept with the reason, listed, replayed, and then gone.

use std::time::Duration;

use sightline_bus::{Consumer, DeadLetters, Producer, TopicSpec, dead, dead_letter_topic, ensure_topics};

use super::support::{LONG, config, nothing_comes, record, take, text, topic, until};

#[test]
fn dead_letters_are_kept_listed_and_replayed() {
    let config = config();
    let topic = topic(&config);
    assert_eq!(dead::list(&config, &topic, 10).unwrap(), [], "a topic that is not there has none");
    let dead_topic = dead_letter_topic(&config, &topic);
    ensure_topics(&config, &[TopicSpec::aging(&dead_topic)]).unwrap();
    let producer = Producer::start(&config, "test").unwrap();
    let letters = DeadLetters::new(producer.clone(), &config, "embed");
    for n in 0..6 {
        let mut out = record(&topic, &format!("gate-{}", n % 2), format!("poison {n}"));
        out.headers = vec![("mark".into(), n.to_string().into())];
        producer.send_and_wait(out, LONG).unwrap();
    }
    producer.send_and_wait(record(&topic, "gate-0", vec![7; 1_040_000]), LONG).unwrap();
    let consumer = Consumer::start(&config, &topic, &[&topic], "test").unwrap();
    let mut origins = Vec::new();
    for (record, receipt) in take(&consumer, 7) {
        let even = record.payload.last().is_some_and(|b| b % 2 == 0);
        origins.push((record.partition, record.offset));
        letters.send(record, if even { "an even one" } else { "an odd one: \u{e4}" }, receipt);
    }
    // Their receipts are completed once the broker has the dead letters.
    until("all are dead letters", || consumer.open_bytes() == 0);
    consumer.close();
    nothing_comes(&Consumer::start(&config, &topic, &[&topic], "test").unwrap());

    let all = dead::list(&config, &topic, 10).unwrap();
    assert_eq!(all.len(), 7);
    assert!(all.windows(2).all(|two| two[0].time <= two[1].time));
    let three = all.iter().find(|l| l.payload == "poison 3").unwrap();
    assert_eq!(
        (three.reason.as_str(), three.stage.as_str(), three.key.as_str()),
        ("an odd one: \u{e4}", "embed", "gate-1")
    );
    assert_eq!((three.topic.as_str(), &three.headers[..]), (topic.as_str(), &[("mark".into(), "3".into())][..]));
    assert!(origins.contains(&three.origin));
    assert!(three.time.parse::<sightline_core::Timestamp>().is_ok(), "{}", three.time);
    assert!(all.iter().any(|l| l.payload.len() == 1_040_000 && !l.cut), "the largest record is kept whole");
    assert_eq!(dead::list(&config, &topic, 2).unwrap(), all[5..]);

    // Replay a part of them: the others stay.
    assert_eq!(dead::replay(&config, &topic, |l| l.reason == "an even one").unwrap(), 3);
    let reader = Consumer::start(&config, &topic, &[&topic], "test").unwrap();
    let mut came: Vec<_> = take(&reader, 3);
    came.sort_by_key(|(r, _)| text(r));
    let texts: Vec<_> = came.iter().map(|(r, _)| text(r)).collect();
    assert_eq!(texts, ["poison 0", "poison 2", "poison 4"]);
    assert_eq!(came[1].0.headers, [("mark".into(), "2".into())], "no trace of its death");
    came.into_iter().for_each(|(_, receipt)| receipt.complete());
    let left = dead::list(&config, &topic, 10).unwrap();
    assert_eq!(left.len(), 4);
    assert!(left.iter().all(|l| l.reason == "an odd one: \u{e4}" && origins.contains(&l.origin)));
    // Then replay the rest.
    assert_eq!(dead::replay(&config, &topic, |_| true).unwrap(), 4);
    assert_eq!(dead::list(&config, &topic, 10).unwrap(), []);
    assert_eq!(dead::replay(&config, &topic, |_| true).unwrap(), 0);
    let came = take(&reader, 4);
    assert!(came.iter().any(|(r, _)| r.payload.len() == 1_040_000));
    assert!(reader.next(Duration::from_secs(1)).is_none());
}
