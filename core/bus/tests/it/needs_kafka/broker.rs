//! Broker outages: no record is lost, memory stays bounded, order is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sightline_bus::{Consumer, Producer};
use sightline_core::config::BusConfig;

use super::support::{Broker, LONG, on, record, take, text, topic, until};

#[test]
fn a_broker_that_stops_is_killed_and_comes_back_loses_nothing() {
    let broker = Broker::start();
    let config = BusConfig { in_flight_bytes: 2_000_000, partitions: 2, ..on(&broker.address) };
    let topic = topic(&config);
    let producer = Producer::start(&config, "test").unwrap();
    let (sent, acknowledged) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let enough = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let (producer, topic, enough) = (producer.clone(), topic.clone(), Arc::clone(&enough));
        let (sent, acknowledged) = (Arc::clone(&sent), Arc::clone(&acknowledged));
        move || {
            for n in 0.. {
                if enough.load(Ordering::SeqCst) {
                    break;
                }
                let acknowledged = Arc::clone(&acknowledged);
                let mut payload = n.to_string().into_bytes();
                payload.resize(60_000, b' ');
                let done = move |result: Result<(), _>| {
                    result.unwrap();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                };
                producer.send(record(&topic, &format!("gate-{}", n % 3), payload), done).unwrap();
                sent.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let consumer = Consumer::start(&config, &topic, &[&topic], "test").unwrap();
    let mut came = take(&consumer, 20);
    for what in ["stop", "kill"] {
        broker.script(what);
        until("the producer has filled its memory and waits", || {
            let before = sent.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(500));
            sent.load(Ordering::SeqCst) == before
        });
        let (bytes, waiting) = (producer.in_flight_bytes(), sent.load(Ordering::SeqCst));
        assert!(bytes <= 2_000_000 && bytes > 1_500_000, "{bytes} bytes of {waiting} records");
        until("both say what is wrong", || producer.fault().is_some() && consumer.fault().is_some());
        broker.script("start");
        until("the producer goes on", || sent.load(Ordering::SeqCst) > waiting + 20);
        // Receipts completed now are committed to the broker that came back.
        came.drain(..).for_each(|(_, receipt)| receipt.complete());
        came = take(&consumer, 20);
        until("both are well", || producer.fault().is_none() && consumer.fault().is_none());
    }
    came.drain(..).for_each(|(_, receipt)| receipt.complete());
    enough.store(true, Ordering::SeqCst);
    sender.join().unwrap();
    assert!(producer.flush(LONG));
    let records = sent.load(Ordering::SeqCst);
    assert_eq!(acknowledged.load(Ordering::SeqCst), records);
    drop(consumer);
    // Every record once and in order, as a reader from the beginning sees it.
    let reader = Consumer::start(&config, "reader", &[&topic], "test").unwrap();
    let mut last = [None::<usize>; 3];
    for _ in 0..records {
        let (record, receipt) = take(&reader, 1).remove(0);
        let number: usize = text(&record).trim().parse().unwrap();
        assert!(last[number % 3].is_none_or(|before| before + 3 == number), "{number} after {last:?}");
        last[number % 3] = Some(number);
        receipt.complete();
    }
    assert_eq!(last.iter().max(), Some(&Some(records - 1)));
    assert!(reader.next(Duration::from_secs(1)).is_none());
}

#[test]
fn an_absent_broker_does_not_delay_shutdown() {
    let broker = Broker::start();
    let config = BusConfig { partitions: 2, ..on(&broker.address) };
    let topic = topic(&config);
    for round in 0..3 {
        let producer = Producer::start(&config, "test").unwrap();
        for n in 0..20 {
            producer.send_and_wait(record(&topic, "gate", format!("{n}")), LONG).unwrap();
        }
        let reader = Consumer::start(&config, &format!("reader-{round}"), &[&topic], "test").unwrap();
        take(&reader, 20).into_iter().for_each(|(_, receipt)| receipt.complete());
        broker.script("kill");
        // At once, before the outage is known; later, while the commit waits for the broker; and
        // once the outage is known.
        std::thread::sleep(Duration::from_millis(1200) * round);
        producer.send(record(&topic, "gate", "late"), |result| assert!(result.is_err())).unwrap();
        let began = Instant::now();
        reader.close();
        drop(producer);
        assert!(began.elapsed() < Duration::from_secs(30), "round {round}: {:?}", began.elapsed());
        broker.script("start");
    }
}
