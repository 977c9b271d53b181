//go:build !amd64

package stock

// timeStamp reads the processor's time stamp counter, where there is one.
func timeStamp() uint64 { return 0 }
