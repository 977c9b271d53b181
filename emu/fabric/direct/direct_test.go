package direct

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, Mknod(path, unix.S_IFREG|0o600))
	require.ErrorIs(t, Mknod(path, unix.S_IFREG|0o600), unix.EEXIST)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	inode, err := Inode(int(f.Fd()))
	require.NoError(t, err)
	require.Equal(t, st.Ino, inode)
	n, err := Write(int(f.Fd()), []byte("four"))
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.NoError(t, Unlink(path))
	require.ErrorIs(t, Unlink(path), unix.ENOENT)
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range 2000 { // several buffers of names
		require.NoError(t, WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d-%s", i, strings.Repeat("x", 50))), nil, 0o600))
	}
	names, err := Names(dir)
	require.NoError(t, err)
	require.Len(t, names, 2000)
	_, err = Names(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, unix.ENOENT)

	path, text := filepath.Join(dir, "text"), []byte(strings.Repeat("a line\n", 9000))
	require.NoError(t, WriteFile(path, text, 0o640))
	got, err := ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(text), string(got))
	require.NoError(t, WriteFile(path, []byte("less"), 0o640))
	got, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "less", string(got))
	st, err := os.Stat(path)
	require.NoError(t, err)
	inode, err := InodeOf(path)
	require.NoError(t, err)
	require.Equal(t, st.Sys().(*syscall.Stat_t).Ino, inode)
	proc, err := ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Contains(t, string(proc), " / ")

	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.ErrorIs(t, Rmdir(dir), unix.ENOTEMPTY)
	require.NoError(t, Rmdir(filepath.Join(dir, "sub")))
}

func TestSocket(t *testing.T) {
	fd, err := Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	require.NoError(t, SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1))
	_, err = Receive(fd, make([]byte, 16))
	require.ErrorIs(t, err, unix.EAGAIN)
	require.NoError(t, CloseRange(fd, fd))
	_, err = Receive(fd, make([]byte, 16))
	require.ErrorIs(t, err, unix.EBADF)
}
