//! Choice of device and precision. What is configured is used, or it is an error; there is no
//! silent fall-back.

use sightline_core::config::EmbedPrecision;

use crate::EmbedError;
use crate::kernel::{Engine, Precision};
use crate::model::Device;

/// Opens the device `requested`: "cpu", or "cuda" / "cuda:N" in a build with the feature `cuda`.
///
/// # Errors
/// An unknown name, a build without CUDA, or a GPU that is not there.
pub fn open_device(requested: &str) -> Result<Device, EmbedError> {
    let refuse = |message: String| EmbedError::Device { requested: requested.to_owned(), message };
    if requested == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match requested.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
        None => None,
    };
    let Some(ordinal) = ordinal else {
        return Err(refuse("use \"cpu\", \"cuda\" or \"cuda:N\"".into()));
    };
    open_gpu(ordinal).map_err(refuse)
}

#[cfg(feature = "candle")]
fn open_gpu(ordinal: usize) -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err(NO_CUDA.into());
    }
    let device = candle_core::Device::new_cuda(ordinal);
    device.map(Device::Candle).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
}

#[cfg(not(feature = "candle"))]
fn open_gpu(_: usize) -> Result<Device, String> {
    Err(NO_CUDA.into())
}

const NO_CUDA: &str = "this build has no CUDA; build with `--features cuda`, or set embed.device = \"cpu\"";

/// Name of a device in answers, logs and metrics.
pub fn device_name(device: &Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        #[cfg(feature = "candle")]
        Device::Candle(device) => match device.location() {
            candle_core::DeviceLocation::Cpu => "cpu".into(),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        },
    }
}

/// Precision to compute with on `device`, given the configured one.
///
/// # Errors
/// bf16 on a CPU without the instructions, f16 on any CPU.
pub fn choose_precision(configured: EmbedPrecision, device: &Device) -> Result<Precision, EmbedError> {
    let has_bf16 = !device.is_cpu() || Engine::bf16().is_some();
    match configured {
        EmbedPrecision::F32 => Ok(Precision::F32),
        EmbedPrecision::F16 if device.is_cpu() => Err(EmbedError::Device {
            requested: "cpu at f16".into(),
            message: "half precision is for GPUs; set embed.precision = \"auto\", \"bf16\" or \"f32\"".into(),
        }),
        EmbedPrecision::F16 => Ok(Precision::F16),
        // f16 has three bits more than bf16 at the same speed, on every card; a number beyond its
        // range becomes an error.
        EmbedPrecision::Auto if !device.is_cpu() => Ok(Precision::F16),
        EmbedPrecision::Auto if !has_bf16 => Ok(Precision::F32),
        EmbedPrecision::Bf16 if !has_bf16 => Err(EmbedError::Device {
            requested: format!("{} at bf16", device_name(device)),
            message: "it has no bf16 instructions we use; set embed.precision = \"auto\" or \"f32\"".into(),
        }),
        EmbedPrecision::Auto | EmbedPrecision::Bf16 => Ok(Precision::Bf16),
    }
}

/// Tells glibc's malloc to keep buffers of tensor size instead of mapping and unmapping them: every
/// activation is such a buffer, and fresh pages cost more than the arithmetic on them. Does nothing
/// elsewhere.
///
/// It holds for the whole process, not for the model alone: blocks of up to 32 MiB come from
/// malloc's arenas, an arena gives memory back only when more than 256 MiB at its end are free, and
/// both thresholds no longer adapt. Whatever else runs in the process (`sightline serve`: index,
/// GStreamer) may thereby hold more memory than it uses. It overrides the environment's
/// `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`. So programs call it, and loading a model
/// does not; [`crate::Embedder::start`] calls it unless `embed.keep_large_buffers` is off.
pub fn keep_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Above the largest activation of the largest model at the largest batch; malloc itself
        /// caps it at 32 MiB on 64 bits, beyond which it maps as before.
        const LARGEST: libc::c_int = 32 << 20;
        // SAFETY: mallopt changes two thresholds of the allocator and is safe to call at any time.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGEST * 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_what_was_asked_for() {
        let choose = |configured| choose_precision(configured, &Device::Cpu);
        assert!(matches!(choose(EmbedPrecision::F32), Ok(Precision::F32)));
        let exact = Engine::bf16().is_none();
        assert_eq!(choose(EmbedPrecision::Bf16).is_err(), exact);
        assert_eq!(matches!(choose(EmbedPrecision::Auto), Ok(Precision::F32)), exact);
        let refused = choose(EmbedPrecision::F16).expect_err("f16 on a CPU").to_string();
        assert!(refused.contains("f16") && refused.contains("GPU"), "{refused}");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert_eq!(device_name(&open_device("cpu").expect("a CPU")), "cpu");
        for bad in ["gpu", "cuda:x", "cudax", ""] {
            assert!(matches!(open_device(bad), Err(EmbedError::Device { .. })), "{bad:?}");
        }
        let e = open_device("cuda:99").expect_err("there is no GPU 99").to_string();
        assert!(e.contains("cuda:99"), "{e}");
        if cfg!(not(feature = "cuda")) {
            assert!(e.contains("--features cuda"), "{e}");
        }
    }
}
