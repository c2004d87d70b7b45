//! Continues a text: `cargo run --release -p infer --example generate -- models/base "Once upon a time"`.

use infer::{ModelFolder, Request, Sampling};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("expected a model folder and a text".into());
    };
    let folder = ModelFolder::find(Path::new(&model), None)?;
    let prompt = folder.tokenizer.encode(&prompt, true)?;
    let threads = std::thread::available_parallelism()?.get();
    let model = folder.load(prompt.len() + 64, threads)?;
    // Any number of requests is answered together; none changes what another gets.
    let sampled = Sampling { temperature: 0.8, top_p: 0.95, seed: 1, ..Sampling::GREEDY };
    let requests = [Request::new(prompt.clone(), 64, Sampling::GREEDY), Request::new(prompt, 64, sampled)];
    let outputs = model.generate(&requests, (&folder.stop_tokens()?, None), (1024, 256), &mut |_, _| {})?;
    for output in outputs {
        println!("{}\n", folder.tokenizer.decode(&output.tokens, true)?);
    }
    Ok(())
}
