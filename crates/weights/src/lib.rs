//! Model files: safetensors, Hugging Face folders, bitsandbytes' quantised weights, PEFT adapters.
//!
//! Reading never copies a weight: [`Checkpoint`] maps the shards and hands out [`Mapped`] tensors that keep their file
//! alive, to be used in place or converted. Writing never holds a model: [`write_model`] asks for one tensor after the
//! other. Nothing in a model folder is executed, and no name in it leaves the folder.

#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("safetensors are little-endian and are used in place: a big-endian host needs a converting reader");

mod adapter;
mod average;
mod checkpoint;
pub mod convert;
mod dtype;
mod error;
mod folder;
mod header;
mod json;
mod merge;
mod mlx;
mod peft;
mod quantise;
mod safetensors;
mod stacked;
mod target;
#[cfg(test)]
mod testdir;
mod unstack;
mod write;

pub use adapter::{Adapter, LoraPair, WholeTensor, save_adapter, trains_embedding};
pub use average::{Averaged, average};
pub use checkpoint::Checkpoint;
pub use convert::Element;
pub use dtype::{DType, Tensor, TensorInfo};
pub use error::Error;
pub use folder::{ConfigChanges, copy_companions, read_config, write_config};
pub use header::Fault;
pub use merge::{MergeOptions, MergeReport, MergedModule, merge};
pub use mlx::{AdapterForm, export_adapter, read_adapter};
pub use peft::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, AdapterConfig, LoraFactor, module_of, tensor_name};
pub use quantise::{Code, QuantiseReport, Quantised, Scheme, Values, is_quantisable, quantise_folder};
pub use safetensors::{Mapped, SafeTensors};
pub use target::{Targets, resolve};
pub use unstack::Experts;
pub use write::{Sink, write_atomic, write_file, write_model, write_tensors};
