//! Writing safetensors one tensor at a time, so that a file is there whole or not at all.
//!
//! Every file is written under a temporary name beside its own, synced, and renamed. A model's shards are all complete
//! before the first of them gets its name, and the index comes last.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::checkpoint::{INDEX_FILE, SINGLE_FILE};
use crate::convert::{self, Element};
use crate::dtype::{DType, Tensor, TensorInfo};
use crate::error::Error;
use crate::header::{MAX_NAME, METADATA_KEY};

/// Bytes gathered before a write to the disk.
const BUFFER: usize = 1 << 20;

/// A file under its temporary name; removed unless it is committed.
struct Pending {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Pending {
    fn create(path: &Path) -> Result<Pending, Error> {
        let name = path.file_name().unwrap_or_else(|| panic!("{} is no file name", path.display()));
        let temporary = path.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        // What a killed process left is removed, never followed: it may be a link.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &temporary)(e)),
            _ => {}
        }
        let file = File::create_new(&temporary).map_err(Error::io("create", &temporary))?;
        Ok(Pending { file: BufWriter::with_capacity(BUFFER, file), temporary, path: path.to_owned(), committed: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Brings all bytes to the disk.
    fn finish(&mut self) -> Result<(), Error> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io("write", &self.path))
    }

    /// Gives the finished file its name.
    fn commit(mut self) -> Result<(), Error> {
        fs::rename(&self.temporary, &self.path).map_err(Error::io("rename to", &self.path))?;
        self.committed = true;
        sync_parent(&self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            // The error that brought us here is the one to report; a left-over is removed by the next attempt.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a rename in `path`'s folder outlast a power failure.
fn sync_parent(path: &Path) -> Result<(), Error> {
    // Only Unix opens folders as files; elsewhere the file system orders the rename itself.
    if cfg!(unix) {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", parent))?;
    }
    Ok(())
}

/// Writes a small file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut pending = Pending::create(path)?;
    pending.write(bytes)?;
    pending.finish()?;
    pending.commit()
}

/// Writes a file whole or not at all, in as many pieces as `fill` puts.
pub(crate) fn write_pieces(
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut pending = Pending::create(path)?;
    fill(&mut |bytes| pending.write(bytes))?;
    pending.finish()?;
    pending.commit()
}

/// Copies a file as [`write_atomic`] writes one.
pub(crate) fn copy_atomic(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = File::open(from).map_err(Error::io("open", from))?;
    let mut pending = Pending::create(to)?;
    std::io::copy(&mut source, &mut pending.file).map_err(Error::io("write", to))?;
    pending.finish()?;
    pending.commit()
}

/// Takes the values of one tensor, in order, in as many pieces as is convenient.
pub struct Sink<'a> {
    pending: &'a mut Pending,
    dtype: DType,
    remaining: usize,
}

impl Sink<'_> {
    /// Appends values, rounded to the tensor's type. Panics on more values than the tensor has.
    pub fn put<T: Element>(&mut self, values: &[T]) -> Result<(), Error> {
        convert::encode(values, self.dtype, |bytes| self.put_bytes(bytes))
    }

    /// Appends bytes of values as they are stored. Panics on more bytes than the tensor has.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let remaining = self.remaining.checked_sub(bytes.len());
        self.remaining = remaining.unwrap_or_else(|| panic!("{} bytes for {} places", bytes.len(), self.remaining));
        self.pending.write(bytes)
    }
}

/// Writes `tensors` to `path`; `fill` is called once for each, in the order they have in the file (wide types first, then
/// by name), and puts all of its values. Returns the bytes of the values.
///
/// Panics if two tensors have one name, or `fill` puts fewer values than the shape says.
pub fn write_file<E: From<Error>>(
    path: &Path,
    tensors: &[TensorInfo],
    mut fill: impl FnMut(&TensorInfo, &mut Sink<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let tensors: Vec<&TensorInfo> = tensors.iter().collect();
    let mut pending = Pending::create(path)?;
    write_pending(&mut pending, &tensors, &mut fill)?;
    pending.commit()?;
    Ok(tensors.iter().map(|t| t.byte_len()).sum())
}

/// Writes tensors that are in memory to `path`.
pub fn write_tensors(path: &Path, tensors: &[Tensor<'_>]) -> Result<usize, Error> {
    let infos: Vec<_> = tensors.iter().map(|t| TensorInfo::new(t.name, t.dtype, t.shape)).collect();
    write_file(path, &infos, |info, sink| {
        let tensor = tensors.iter().find(|t| t.name == info.name).expect("one of the tensors given");
        sink.put_bytes(tensor.bytes)
    })
}

/// Writes a model's weights to the folder `dir`, which exists: `model.safetensors`, or shards of at most
/// `max_shard_bytes` (a larger tensor gets its own) and their index. Tensors go to shards in the order given; `fill` is
/// as in [`write_file`]. Shards and index of an earlier save are removed. Returns the bytes of the values.
pub fn write_model<E: From<Error>>(
    dir: &Path,
    tensors: &[TensorInfo],
    max_shard_bytes: usize,
    mut fill: impl FnMut(&TensorInfo, &mut Sink<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let shards = split(tensors, max_shard_bytes);
    let file_name = |i: usize| match shards.len() {
        1 => SINGLE_FILE.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let mut finished = Vec::with_capacity(shards.len());
    for (i, shard) in shards.iter().enumerate() {
        let mut pending = Pending::create(&dir.join(file_name(i)))?;
        write_pending(&mut pending, shard, &mut fill)?;
        finished.push(pending);
    }
    let total: usize = tensors.iter().map(TensorInfo::byte_len).sum();
    let index = if shards.len() > 1 { Some(pending_index(dir, &shards, file_name, total)?) } else { None };

    // From here on no bytes are written. Without its index a folder of half-named shards cannot be taken for a model.
    let index_path = dir.join(INDEX_FILE);
    if index_path.exists() {
        fs::remove_file(&index_path).map_err(Error::io("remove", &index_path))?;
    }
    for pending in finished {
        pending.commit()?;
    }
    let names: BTreeSet<String> = (0..shards.len()).map(file_name).collect();
    remove_stale(dir, &names)?;
    if let Some(index) = index {
        index.commit()?;
    }
    Ok(total)
}

/// Cuts the list into shards; a model without tensors is one empty shard.
fn split(tensors: &[TensorInfo], max_shard_bytes: usize) -> Vec<Vec<&TensorInfo>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        let bytes = tensor.byte_len();
        let shard = shards.last_mut().expect("one at least");
        if size + bytes > max_shard_bytes && !shard.is_empty() {
            shards.push(vec![tensor]);
            size = bytes;
        } else {
            shard.push(tensor);
            size += bytes;
        }
    }
    shards
}

fn pending_index(
    dir: &Path,
    shards: &[Vec<&TensorInfo>],
    file_name: impl Fn(usize) -> String,
    total: usize,
) -> Result<Pending, Error> {
    let mut rows: Vec<(&str, String)> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, s)| s.iter().map(move |t| (t.name.as_str(), i)))
        .map(|(name, i)| (name, file_name(i)))
        .collect();
    rows.sort_unstable();
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        panic!("two tensors named {:?}", pair[0].0);
    }
    let weight_map: Map<String, Value> = rows.into_iter().map(|(name, file)| (name.to_owned(), file.into())).collect();
    let mut pending = Pending::create(&dir.join(INDEX_FILE))?;
    pending.write(&pretty_json(&json!({ "metadata": { "total_size": total }, "weight_map": weight_map })))?;
    pending.finish()?;
    Ok(pending)
}

/// JSON with an indent of two and a newline at the end, as the model folders have it.
pub(crate) fn pretty_json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("string keys only");
    bytes.push(b'\n');
    bytes
}

/// Removes `model.safetensors` and `model-*-of-*.safetensors` that are not in `keep`.
fn remove_stale(dir: &Path, keep: &BTreeSet<String>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let name = entry.map_err(Error::io("list", dir))?.file_name().to_string_lossy().into_owned();
        let is_shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        if (is_shard || name == SINGLE_FILE) && !keep.contains(&name) {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Writes header and values, and syncs.
fn write_pending<E: From<Error>>(
    pending: &mut Pending,
    tensors: &[&TensorInfo],
    fill: &mut impl FnMut(&TensorInfo, &mut Sink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut ordered = tensors.to_vec();
    // Wide types first: every value then starts at a multiple of its size.
    ordered.sort_by(|a, b| b.dtype.alignment().cmp(&a.dtype.alignment()).then_with(|| a.name.cmp(&b.name)));
    pending.write(&header(&ordered))?;
    for info in ordered {
        let mut sink = Sink { pending: &mut *pending, dtype: info.dtype, remaining: info.byte_len() };
        fill(info, &mut sink)?;
        assert_eq!(sink.remaining, 0, "bytes that {} still lacks", info.name);
    }
    Ok(pending.finish()?)
}

/// The header's length and the header, padded so that the data start at a multiple of 8.
fn header(tensors: &[&TensorInfo]) -> Vec<u8> {
    let mut map = Map::new();
    map.insert(METADATA_KEY.to_owned(), json!({ "format": "pt" }));
    let mut begin = 0;
    for tensor in tensors {
        let TensorInfo { name, dtype, shape } = tensor;
        assert!(name.len() <= MAX_NAME, "{name} is longer than {MAX_NAME} bytes");
        let end = begin + tensor.byte_len();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        assert!(map.insert(name.clone(), entry).is_none(), "two tensors named {name:?}");
        begin = end;
    }
    let mut json = serde_json::to_vec(&map).expect("string keys only");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::testdir::TestDir;

    fn infos(count: usize) -> Vec<TensorInfo> {
        (0..count).map(|i| TensorInfo::new(format!("t{i:02}"), DType::F32, [3])).collect()
    }

    fn fill(info: &TensorInfo, sink: &mut Sink<'_>) -> Result<(), Error> {
        let value: f32 = info.name[1..].parse().unwrap();
        sink.put(&[value])?;
        sink.put(&[value, value])
    }

    fn names(dir: &TestDir) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn check_values(dir: &TestDir, count: usize) {
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.len(), count);
        for (i, name) in checkpoint.names().enumerate() {
            assert_eq!(checkpoint.get(name).unwrap().to_f32().unwrap(), [i as f32; 3]);
        }
    }

    #[test]
    fn a_model_is_cut_into_shards_by_size_with_a_sorted_index() {
        let dir = TestDir::new();
        // 12 bytes each: two to a shard of 30.
        let total = write_model(dir.path(), &infos(5), 30, fill).unwrap();
        assert_eq!(total, 60);
        let files = [
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
        ];
        assert_eq!(names(&dir), [&files[..], &[INDEX_FILE]].concat());
        let index: Value = serde_json::from_slice(&fs::read(dir.join(INDEX_FILE)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 60);
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["t00", "t01", "t02", "t03", "t04"]);
        assert_eq!(map["t03"], files[1]);
        check_values(&dir, 5);
    }

    #[test]
    fn a_tensor_above_the_limit_has_a_shard_of_its_own() {
        let dir = TestDir::new();
        write_model(dir.path(), &infos(3), 1, fill).unwrap();
        assert_eq!(names(&dir).len(), 4);
        check_values(&dir, 3);
    }

    #[test]
    fn an_earlier_save_leaves_nothing_behind() {
        let dir = TestDir::new();
        let keep = ["config.json", "model-card.md", "adapter_model.safetensors"];
        keep.iter().for_each(|name| drop(dir.file(name, "")));
        write_model(dir.path(), &infos(5), 30, fill).unwrap();
        write_model(dir.path(), &infos(2), 1000, fill).unwrap();
        assert_eq!(names(&dir), ["adapter_model.safetensors", "config.json", "model-card.md", SINGLE_FILE]);
        check_values(&dir, 2);
        write_model(dir.path(), &infos(3), 30, fill).unwrap();
        assert!(!names(&dir).contains(&SINGLE_FILE.to_owned()));
        check_values(&dir, 3);
    }

    #[test]
    fn a_save_that_fails_leaves_the_earlier_one() {
        let dir = TestDir::new();
        write_model(dir.path(), &infos(5), 30, fill).unwrap();
        let before = names(&dir);
        let result = write_model(dir.path(), &infos(4), 30, |info, sink| {
            if info.name == "t03" {
                return Err(Error::io("write", dir.path())(std::io::ErrorKind::StorageFull.into()));
            }
            fill(info, sink)
        });
        assert!(result.unwrap_err().is_disk_full());
        assert_eq!(names(&dir), before, "no temporary file either");
        check_values(&dir, 5);
    }

    #[test]
    fn wide_types_come_first_so_that_all_are_aligned() {
        let dir = TestDir::new();
        let path = dir.join("x.safetensors");
        let infos = [
            TensorInfo::new("a", DType::U8, [3]),
            TensorInfo::new("b", DType::BF16, [1]),
            TensorInfo::new("c", DType::F64, [1]),
            TensorInfo::new("d", DType::F32, [1]),
        ];
        let mut order = String::new();
        write_file(&path, &infos, |info, sink| {
            order.push_str(&info.name);
            if info.dtype == DType::U8 { sink.put_bytes(&[1, 2, 3]) } else { sink.put(&[1.0f32]) }
        })
        .unwrap();
        assert_eq!(order, "cdba");
        let file = crate::safetensors::SafeTensors::open(&path).unwrap();
        assert!(infos.iter().all(|i| file.get(&i.name).unwrap().is_aligned()));
        let header = fs::read(&path).unwrap();
        assert_eq!(u64::from_le_bytes(header[..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn a_link_under_the_temporary_name_is_not_followed() {
        let dir = TestDir::new();
        let victim = dir.file("victim", "untouched");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&victim, dir.join(".x.json.partial")).unwrap();
        write_atomic(&dir.join("x.json"), b"{}").unwrap();
        assert_eq!(fs::read(victim).unwrap(), b"untouched");
        assert_eq!(fs::read(dir.join("x.json")).unwrap(), b"{}");
    }

    #[test]
    fn an_output_that_cannot_be_written_is_named() {
        let dir = TestDir::new();
        let file = dir.file("plain", "");
        let error = write_atomic(&file.join("x.json"), b"").unwrap_err();
        assert!(error.to_string().contains("plain"), "{error}");
        assert_eq!(error.exit_code(), 6);
        let denied = Error::io("create", &file)(std::io::ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().contains("check the folder's permissions"), "{denied}");
        assert!(!denied.is_disk_full());
    }

    #[test]
    #[should_panic(expected = "bytes that t00 still lacks")]
    fn a_tensor_must_be_filled() {
        let dir = TestDir::new();
        let _ = write_model(dir.path(), &infos(1), 30, |_, sink| sink.put(&[1.0f32]));
    }

    #[test]
    #[should_panic(expected = "4 bytes for 0 places")]
    fn a_tensor_must_not_be_overfilled() {
        let dir = TestDir::new();
        let _ = write_model(dir.path(), &infos(1), 30, |_, sink| {
            sink.put(&[1.0f32; 3])?;
            sink.put(&[1.0f32])
        });
    }
}
