//! What queues hold and do, again and again.

use rustix::process::Signal;

use super::{Stage, check_refused, check_usage, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn one_round_is_a_list_with_rates() {
    let stage = Stage::new().await;
    stage.publish("few", &["1"]).await;
    stage.publish("many", &["1", "2"]).await;
    let once = ["queue", "top", "--once", "--interval", "100ms"];
    let rows = |out: &str| -> Vec<Vec<String>> {
        out.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    let plain = rows(&stage.shell.out(&once).await);
    assert_eq!((plain[0][0].as_str(), plain[0][5].as_str()), ("NAME", "IN/S"));
    assert_eq!(
        (&plain[1][..2], &plain[2][..2]),
        (&["many".into(), "2".into()][..], &["few".into(), "1".into()][..])
    );
    assert_eq!((plain.len(), plain[1][5].as_str()), (3, "0.0"));
    let sorted = stage.shell.json(&[&once[..], &["--sort", "name", "--count", "1"]].concat()).await;
    assert_eq!((sorted.as_array().unwrap().len(), &sorted[0]["name"]), (1, &"few".into()));
    let named = stage.shell.json(&[&once[..], &["few"]].concat()).await;
    assert_eq!((named.as_array().unwrap().len(), &named[0]["ready"]), (1, &1.into()));
    check_refused(&stage.shell.run(&[&once[..], &["none"]].concat()).await, 65, &["none"]);
    check_refused(
        &stage.shell.run(&["queue", "top", "--interval", "1ms"]).await,
        65,
        &["interval"],
    );
    check_usage(&stage.shell.run(&["queue", "top", "--sort", "colour"]).await, "colour");
    check_refused(&stage.shell.run(&["queue", "top", "-o", "json"]).await, 64, &["--once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_rounds_are_printed_until_it_is_stopped() {
    let stage = Stage::new().await;
    stage.publish("work", &["1"]).await;
    let mut top = stage.shell.start(&["queue", "top", "--interval", "100ms", "-o", "jsonl"]);
    assert_eq!(top.json_line().await["ready"], 1);
    stage.publish("work", &["2"]).await;
    while top.json_line().await["ready"] != 2 {}
    top.signal(Signal::INT);
    let ended = top.end().await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    json_lines(&ended.out);
    let mut plain = stage.shell.start(&["queue", "top", "--interval", "100ms"]);
    for expected in ["NAME", "work", "", "NAME", "work"] {
        let line = plain.line().await.unwrap();
        assert_eq!(line.split('\t').next(), Some(expected));
    }
    // A reader that has seen enough is no failure.
    plain.close_stdout();
    assert_eq!(plain.end().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_it_is_drawn_until_q_is_typed() {
    let stage = Stage::new().await;
    stage.publish("work", &["1"]).await;
    // Nothing but the terminal decides: it is drawn once before any key counts.
    let shown = stage.shell.run_on_screen(&["queue", "top", "--interval", "100ms"], "xq").await;
    assert_eq!(shown.code, 0, "{}", shown.out);
    for word in ["\u{1b}[?1049h", "NAME", "work", "\u{1b}[?25h\u{1b}[?1049l"] {
        assert!(shown.out.contains(word), "{word:?}: {}", shown.out);
    }
    assert!(shown.out.ends_with("\u{1b}[?1049l"), "it is given back: {}", shown.out);
}
