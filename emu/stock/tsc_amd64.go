package stock

// timeStamp reads the processor's time stamp counter.
func timeStamp() uint64
