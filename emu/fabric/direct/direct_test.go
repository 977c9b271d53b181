package direct

import (
	"os"
	"path/filepath"
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
