//! The guide's pieces of code are what compiles here, line by line; those that it shows whole are tests of
//! the documentation.
#![allow(dead_code, unused_variables, reason = "it is compiled, and not run")]

use std::path::Path;

/// Without comments, blanks, and what formatting adds.
fn plain(code: &str) -> String {
    let line = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        // An address is no comment.
        let code = if line.contains("://") { line } else { code };
        code.split_whitespace().collect::<String>()
    };
    code.lines().map(line).collect::<String>().replace(",)", ")").replace(",]", "]")
}

#[test]
fn the_guides_code_compiles() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/worker-guide.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let here = plain(include_str!("guide.rs"));
    let blocks = guide.split("```rust,ignore\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(10 < blocks.len(), "{}", blocks.len());
    // Its crates are not among ours.
    for block in blocks.into_iter().filter(|block| !block.contains("opentelemetry")) {
        for piece in block.lines().flat_map(|line| line.split("...")) {
            let code = plain(piece);
            assert!(
                here.contains(code.trim_end_matches(',')),
                "{piece:?} is in the guide, and is not compiled"
            );
        }
    }
}

mod state {
    use qbroker_worker::{Broker, Context, Worker, actor};

    struct PgPool;

    mod sqlx {
        #[derive(Debug, thiserror::Error)]
        #[error("the database is away")]
        pub(super) struct Error;
    }

    #[actor(queue = "reports")]
    async fn build_report(ctx: Context, id: u64) -> Result<(), sqlx::Error> {
        let pool: &PgPool = ctx.state();
        Err(sqlx::Error)
    }

    fn worker(broker: Broker, pool: PgPool) -> Worker {
        Worker::new(broker).state(pool).register(build_report)
    }
}

mod sending {
    use std::time::Duration;

    use qbroker_worker::{BoxError, Broker, actor};

    #[actor]
    async fn send_welcome(user_id: u64, email: String) {}

    #[actor]
    async fn greet(user_id: u64) {}

    async fn send(broker: Broker) -> Result<(), BoxError> {
        let job = send_welcome::with(123, "user@example.com");
        job.delay(Duration::from_mins(30))
            .priority(5)
            .max_retries(2)
            .time_limit(Duration::from_secs(5))
            .message_id("welcome-123")
            .unique_key("welcome-123")
            .ordering_key("user-123")
            .fairness_key("acme")
            .send(&broker)
            .await?;

        broker.send_all((0..500).map(greet::with)).await?;
        Ok(())
    }
}

mod failing {
    use std::time::Duration;

    use qbroker_worker::{BoxError, Broker, Context, Defaults, actor};

    #[derive(Debug, thiserror::Error)]
    enum PaymentError {
        #[error("the card was declined")]
        Declined,
    }

    #[actor(
        queue = "payments",
        max_retries = 5,
        min_backoff = "1s",
        max_backoff = "5m",
        time_limit = "30s",
        throws(PaymentError::Declined)
    )]
    async fn charge(ctx: Context, order: u64) -> Result<(), PaymentError> {
        Err(PaymentError::Declined)
    }

    async fn defaults(url: &str) -> Result<Broker, BoxError> {
        let defaults =
            Defaults::new().max_retries(5).time_limit(Duration::from_secs(30)).store_results(true);
        let broker = Broker::connect(url).await?.defaults(defaults);
        Ok(broker)
    }
}

mod following {
    use std::time::Duration;

    use qbroker_worker::{BoxError, Broker, Context, Group, JobBarrier, ReportedFailure, actor};

    type ImportError = std::io::Error;

    async fn read(file: &str) -> Result<u64, ImportError> {
        Ok(file.len() as u64)
    }

    #[actor]
    async fn index(file: String) {}

    #[actor]
    async fn import(ctx: Context, file: String) -> Result<(), ImportError> {
        let rows = read(&file).await?;
        ctx.when_done(|then| {
            then.send(index::with(&file)).store(format!("rows/{file}"), rows.to_string(), None);
        });
        Ok(())
    }

    #[derive(Debug, thiserror::Error)]
    #[error("it is too much")]
    struct Overflow;

    #[actor(store_results, result_ttl = "1h")]
    async fn add(a: i64, b: i64) -> Result<i64, Overflow> {
        a.checked_add(b).ok_or(Overflow)
    }

    async fn result(broker: Broker) -> Result<i64, BoxError> {
        let job = add::send(&broker, 1, 2).await?;
        let sum: i64 = broker.result(&job.message_id, Duration::from_secs(10)).await?;
        Ok(sum)
    }

    #[actor]
    async fn download(url: String) -> Result<String, BoxError> {
        Ok(url)
    }

    #[actor]
    async fn resize(path: String, pixels: u32) -> Result<String, BoxError> {
        Ok(format!("{path}.{pixels}"))
    }

    #[actor]
    async fn tell(user_id: u64) {}

    #[actor]
    async fn count_words(page: String) -> Result<u64, BoxError> {
        Ok(page.len() as u64)
    }

    #[actor]
    async fn sum_up(counts: Vec<Result<u64, ReportedFailure>>, title: String) {}

    async fn steps(broker: Broker, url: &str, user_id: u64) -> Result<(), BoxError> {
        download::with(url)
            .then(resize::after(640))
            .then(tell::with(user_id))
            .send(&broker)
            .await?;
        Ok(())
    }

    async fn group(broker: Broker, pages: [&str; 2]) -> Result<(), BoxError> {
        let group =
            Group::new(pages.map(count_words::with)).on_complete(sum_up::after("all pages"));
        let sent = group.send(&broker).await?;
        sent.wait(&broker, Duration::from_secs(60)).await?;
        Ok(())
    }

    #[actor]
    async fn close_day(rows: Vec<u64>, day: String) {}

    async fn barrier(broker: Broker) -> Result<(), BoxError> {
        let barrier = JobBarrier::new("import/monday", 3).ttl(Duration::from_hours(12));
        barrier.on_complete(close_day::after("monday")).create(&broker).await?;
        Ok(())
    }

    #[actor]
    async fn import_part(ctx: Context, region: String, rows: u64) {
        ctx.when_done(|then| {
            then.arrive("import/monday", region, rows.to_string());
        });
    }
}

mod limits {
    use std::time::Duration;

    use qbroker_worker::limit::{BucketLimit, ConcurrencyLimit, WindowLimit};
    use qbroker_worker::{BoxError, Context, actor};

    #[actor]
    async fn charge(ctx: Context, order: u64) -> Result<(), BoxError> {
        ConcurrencyLimit::new("bank", 5).acquire(&ctx).await?;
        WindowLimit::new("bank/s", 10, Duration::from_secs(1)).acquire(&ctx).await?;
        BucketLimit::new("bank/h", 5_000, Duration::from_secs(3_600)).acquire(&ctx).await?;
        Ok(())
    }
}

mod working {
    use std::time::Duration;

    use qbroker_worker::middleware::Prometheus;
    use qbroker_worker::{BoxError, Broker, QueueShare, Worker, actor};

    #[actor(queue = "reports", schedule = "30 3 * * *", time_zone = "Europe/Berlin")]
    async fn nightly() {}

    #[actor]
    async fn remind(day: String) {}

    fn scheduled(broker: Broker) -> Result<Worker, BoxError> {
        let worker = Worker::new(broker)
            .register(nightly)
            .register(remind)
            .schedule(remind::with("monday").schedule("weekly-reminder", "0 9 * * mon")?);
        Ok(worker)
    }

    #[actor]
    async fn send_welcome() {}

    #[actor]
    async fn charge() {}

    #[actor]
    async fn build_report() {}

    async fn work(broker: Broker) -> Result<(), BoxError> {
        Worker::new(broker)
            .register(send_welcome)
            .register(charge)
            .register(build_report)
            .concurrency(8)
            .queues([
                QueueShare::new("urgent").rank(0),
                QueueShare::new("mail").rank(1).weight(3),
                QueueShare::new("reports").rank(1).weight(1).window(2),
            ])
            .shutdown_timeout(Duration::from_secs(25))
            .run_until_shutdown()
            .await?;
        Ok(())
    }

    async fn metrics(url: &str) -> Result<Broker, BoxError> {
        let metrics = Prometheus::new();
        metrics.serve("0.0.0.0:9191").await?;
        let broker = Broker::connect(url).await?.middleware(metrics);
        Ok(broker)
    }
}
