package migrate_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/migrate"
)

// BenchmarkDisk copies a disk of 64 MiB between two ends in one process, over
// loopback: what both ends together take of the machine.
func BenchmarkDisk(b *testing.B) {
	const blocks = 16384
	for name, fill := range map[string]func(p []byte, r *rand.ChaCha8, block int){
		"incompressible": func(p []byte, r *rand.ChaCha8, _ int) { _, _ = r.Read(p) },
		"duplicate": func(p []byte, _ *rand.ChaCha8, block int) {
			_, _ = rand.NewChaCha8([32]byte{byte(block % 50)}).Read(p)
		},
	} {
		b.Run(name, func(b *testing.B) {
			from := newTestDisk(blocks)
			r := rand.NewChaCha8([32]byte{1})
			for i := range blocks {
				fill(from.image[i*block:(i+1)*block], r, i)
			}
			b.SetBytes(blocks * block)
			for b.Loop() {
				b.StopTimer()
				a, z, _ := disks(b, 15*time.Second)
				to := newTestDisk(blocks)
				ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
				b.StartTimer()
				migrate.ReceiveDisk(ctx, z, to, migrate.DiskOptions{})
				m, err := migrate.SendDisk(ctx, a, from, migrate.DiskOptions{})
				require.NoError(b, err)
				require.NoError(b, m.Settle(ctx))
				b.ReportMetric(float64(m.Report().BytesOut)/(blocks*block)*100, "%-on-TCP")
				m.Close()
				cancel()
			}
		})
	}
}
