package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAMemoryForWhichThereIsNoRoom is refused before anything runs on it, and
// leaves nothing.
func TestAMemoryForWhichThereIsNoRoom(t *testing.T) {
	dir := t.TempDir()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	if s.Bavail*uint64(s.Bsize) > maxMemory {
		t.Skip("this machine has room for the largest memory")
	}
	m, err := CreateMemory(dir, maxMemory, false)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a memory of %d bytes: %v, %v", int64(maxMemory), m, err)
	}
	if _, err := os.Stat(filepath.Join(dir, MemoryFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file is left: %v", err)
	}
}
