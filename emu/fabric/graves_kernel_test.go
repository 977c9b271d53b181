package fabric_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// TestDestroyEndsConnections closes connections with much to send over a slow
// line: the kernel would try to deliver it for minutes, and keep the sender's
// namespace for that.
func TestDestroyEndsConnections(t *testing.T) {
	kerneltest.Need(t)
	f, err := fabric.New("orphans", nil)
	require.NoError(t, err)
	apply(t, f, backbone(lineOf(2)))
	c := startCrowd(t, f, 4)
	c.rates(nil, time.Second) // the buffers fill
	c.stop()
	stat := func() string {
		data, err := os.ReadFile("/proc/net/sockstat")
		require.NoError(t, err)
		return string(data)
	}
	require.NotContains(t, stat(), " orphan 0 ", "nothing is left to send")
	begin := time.Now()
	require.NoError(t, f.Destroy(context.Background()))
	t.Logf("destroyed in %v", time.Since(begin))
	require.Contains(t, stat(), " orphan 0 ")
}
