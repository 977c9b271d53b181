package stock

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// A kernel image unpacks itself when it starts, which takes a machine whose
// instructions are translated longer than the rest of its start: 4 s of 5.5.
// So it is unpacked here, once. QEMU loads what comes out by the PVH protocol,
// which kernels know since 4.20 (CONFIG_PVH).

// Loadable gives the path of what QEMU is to load: the kernel unpacked, in the
// cache folder, or the image as it is where that cannot be had.
func (k *Image) Loadable(ctx context.Context) string {
	path, err := k.Unpacked(ctx)
	if err != nil {
		return k.Path
	}
	return path
}

// Unpacked unpacks the image's kernel into the cache folder, unless it is there.
func (k *Image) Unpacked(ctx context.Context) (string, error) {
	dir, err := k.Cache()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "vmlinux")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	image, err := os.ReadFile(k.Path)
	if err != nil {
		return "", err
	}
	kernel, err := unpackKernel(ctx, image)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", k.Path, err)
	}
	if !knowsPVH(kernel) {
		return "", fmt.Errorf("the kernel in %s does not know the PVH protocol", k.Path)
	}
	return path, ReplaceFile(path, kernel)
}

// Cache is the folder for what is known about this very image.
func (k *Image) Cache() (string, error) {
	root := CacheFolder("boot")
	if root == "" {
		return "", errors.New("there is no cache folder: neither XDG_CACHE_HOME nor HOME is set")
	}
	st, err := os.Stat(k.Path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", k.Path, st.Size(), st.ModTime().UnixNano()))
	dir := filepath.Join(root, k.Release+"-"+hex.EncodeToString(sum[:6]))
	return dir, os.MkdirAll(dir, 0o755)
}

// Offsets in the header of an x86 image (the kernel's
// Documentation/x86/boot.rst, protocol 2.08 and later).
const (
	bootSectors       = 0x1f1 // one byte: sectors of the set-up code after the first
	bootMagic         = 0x202 // "HdrS"
	bootPayloadOffset = 0x248 // from the end of the set-up code
	bootPayloadLength = 0x24c
	bootSector        = 512
)

// unpackKernel gives the ELF file that is packed in an image.
func unpackKernel(ctx context.Context, image []byte) ([]byte, error) {
	if len(image) < 2*bootSector || string(image[bootMagic:bootMagic+4]) != "HdrS" {
		return nil, errors.New("not a kernel image for x86")
	}
	sectors := int(image[bootSectors])
	if sectors == 0 {
		sectors = 4
	}
	from := (sectors+1)*bootSector + int(binary.LittleEndian.Uint32(image[bootPayloadOffset:]))
	to := from + int(binary.LittleEndian.Uint32(image[bootPayloadLength:]))
	if from >= to || to > len(image) {
		return nil, fmt.Errorf("its kernel would lie from byte %d to %d of %d", from, to, len(image))
	}
	return unpackAny(ctx, image[from:to])
}

// packings are the ways in which kernels are packed, by their first bytes.
var packings = []struct {
	magic   string
	program string // which unpacks it from its input to its output
}{
	{"\x1f\x8b", ""}, // gzip: Go can
	{"\xfd7zXZ\x00", "xz"},
	{"\x28\xb5\x2f\xfd", "zstd"},
	{"\x02\x21\x4c\x18", "lz4"},
}

// unpackAny unpacks data. All packings but gzip are followed by the size of what
// comes out, in four bytes.
func unpackAny(ctx context.Context, data []byte) ([]byte, error) {
	for _, p := range packings {
		if !bytes.HasPrefix(data, []byte(p.magic)) {
			continue
		}
		if p.program == "" {
			r, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		cmd := exec.CommandContext(ctx, p.program, "-dc")
		cmd.Stdin = bytes.NewReader(data[:len(data)-4])
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s -dc: %w", p.program, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("packed in an unknown way: it begins with % x", data[:min(8, len(data))])
}

// notePVH is the note that says where such a kernel is entered (Xen's
// XEN_ELFNOTE_PHYS32_ENTRY).
const notePVH = 18

// knowsPVH looks for the note in an ELF file.
func knowsPVH(kernel []byte) bool {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return false
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return false
		}
		for len(notes) >= 12 {
			name, desc := int(f.ByteOrder.Uint32(notes)), int(f.ByteOrder.Uint32(notes[4:]))
			kind := f.ByteOrder.Uint32(notes[8:])
			size := 12 + (name+3)&^3 + (desc+3)&^3
			if name < 0 || desc < 0 || size > len(notes) {
				break
			}
			if kind == notePVH && string(notes[12:12+name]) == "Xen\x00" {
				return true
			}
			notes = notes[size:]
		}
	}
	return false
}
