//! Folders as cpio archives, which the kernel unpacks as its first file system.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Packs all that lies below a folder.
pub(crate) fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(folder, Path::new("."), &mut names)?;
    let file = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    let mut stdin = cpio.stdin.take().expect("standard input was set to a pipe above");
    for name in names {
        writeln!(stdin, "{}", name.display()).context("writing to cpio")?;
    }
    drop(stdin);
    let status = cpio.wait().context("waiting for cpio")?;
    ensure!(status.success(), "cpio failed: {status}");
    Ok(())
}

/// Puts archives one behind the other: the kernel unpacks each over those before it.
pub(crate) fn concatenate(archives: &[&Path], result: &Path) -> Result<()> {
    let mut file =
        File::create(result).with_context(|| format!("creating {}", result.display()))?;
    for archive in archives {
        let mut part =
            File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        io::copy(&mut part, &mut file).context("joining archives")?;
    }
    Ok(())
}

/// Names below `folder`, folders before what is in them.
fn list(root: &Path, folder: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        let is_folder = entry.file_type()?.is_dir();
        names.push(name.clone());
        if is_folder {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("a/b")).expect("folders");
        fs::write(folder.path().join("a/b/c"), "").expect("a file");
        let mut names = Vec::new();
        list(folder.path(), Path::new("."), &mut names).expect("a listing");
        assert_eq!(names, ["./a", "./a/b", "./a/b/c"].map(PathBuf::from));
    }

    #[test]
    fn archives_are_joined_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two, both] = ["one", "two", "both"].map(|name| folder.path().join(name));
        fs::write(&one, "1").expect("a file");
        fs::write(&two, "2").expect("a file");
        concatenate(&[&one, &two], &both).expect("joined");
        assert_eq!(fs::read_to_string(both).expect("a file"), "12");
    }
}
