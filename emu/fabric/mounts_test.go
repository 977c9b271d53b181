package fabric

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const mountinfo = `21 1 0:19 / / ro - rootfs hostfs ro
40 21 0:35 / /run rw,nosuid - tmpfs tmpfs rw,mode=755
41 40 0:37 / /run/netns rw,nosuid shared:1 - tmpfs vpclab rw,mode=755
42 41 0:4 net:[4026532100] /run/netns/vpclab-a-pe1 rw shared:2 - nsfs nsfs rw
43 41 0:4 net:[4026532101] /run/netns/vpclab-a-pe2 rw shared:3 - nsfs nsfs rw
44 43 0:4 net:[4026532102] /run/netns/vpclab-a-pe2 rw shared:3 - nsfs nsfs rw
`

func mountsOf(text string) mounts {
	m := mounts{inodes: map[string]uint64{}}
	for line := range strings.Lines(text) {
		m.line(line)
	}
	return m
}

func TestMounts(t *testing.T) {
	m := mountsOf(mountinfo)
	require.True(t, m.own)
	require.Equal(t, map[string]uint64{"vpclab-a-pe1": 4026532100, "vpclab-a-pe2": 4026532102}, m.inodes, "the last one counts")
	all := []string{nsPath("a", "pe1"), nsPath("a", "pe2"), nsPath("a", "never-made")}
	require.True(t, m.only(all))
	require.False(t, m.only(all[:1]), "another lab's name is there")

	m = mountsOf(mountinfo + "45 41 0:19 /etc /run/netns/by-hand rw - hostfs hostfs rw\n")
	require.Zero(t, m.inodes["by-hand"])
	require.False(t, m.only(all), "somebody mounted something")

	m = mountsOf(strings.ReplaceAll(mountinfo, "tmpfs vpclab", "tmpfs tmpfs"))
	require.False(t, m.only(all), "the machine's own folder")
	m = mountsOf(mountinfo + "46 41 0:35 /netns /run/netns rw shared:1 - tmpfs tmpfs rw\n")
	require.False(t, m.only(all), "something was mounted over it")
}
