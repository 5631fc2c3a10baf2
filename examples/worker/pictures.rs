//! Download, resize, tell: a pipeline whose steps are safe against every crash between them.
//!
//! `pictures work` in one terminal, `pictures send a.png b.png missing.png` in another.
//! Here `pictures` is `cargo run -p qbroker-examples --bin pictures --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use std::time::Duration;

use qbroker_worker::{Broker, GiveUp, Worker, actor};
use serde::{Deserialize, Serialize};

/// Where the picture is: what goes from step to step is small, the picture itself stays where it is.
#[derive(Debug, Serialize, Deserialize)]
struct Picture {
    path: String,
    pixels: u32,
}

#[derive(Debug, thiserror::Error)]
enum PictureError {
    #[error(transparent)]
    Missing(#[from] GiveUp),
    #[error("the network is away")]
    Network,
}

#[actor(queue = "pictures", max_retries = 5, min_backoff = "50ms")]
async fn download(ctx: qbroker_worker::Context, url: String) -> Result<Picture, PictureError> {
    if url.starts_with("missing") {
        return Err(GiveUp::because(format!("there is no {url}")).into());
    }
    if ctx.attempt() == 1 {
        return Err(PictureError::Network);
    }
    Ok(Picture { path: format!("/tmp/{url}"), pixels: 4_000 })
}

/// It computes, so it has a thread to itself.
#[actor(queue = "pictures")]
fn resize(picture: Picture, pixels: u32) -> Result<Picture, PictureError> {
    Ok(Picture { pixels: picture.pixels.min(pixels), ..picture })
}

#[actor(queue = "mail")]
async fn tell(picture: Picture, user_id: u64) {
    println!("user {user_id}: {} has {} pixels", picture.path, picture.pixels);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, urls)) if verb == "send" && !urls.is_empty() => {
            for url in urls {
                let steps = download::with(url).then(resize::after(640)).then(tell::after(7));
                let sent = steps.store_results(Duration::from_secs(600)).send(&broker).await?;
                println!("{}", sent.message_ids[0]);
                // The last step returns nothing; the one before it the picture.
                match sent.result::<()>(&broker, Duration::from_secs(30)).await {
                    Ok(()) => println!("done"),
                    Err(error) => println!("{error}"),
                }
            }
        }
        Some((verb, [])) if verb == "work" => {
            let worker = Worker::new(broker).register(download).register(resize).register(tell);
            worker.run_until_shutdown().await?;
        }
        _ => anyhow::bail!("usage: pictures send URL... | work"),
    }
    Ok(())
}
