package devicetest

func layers() []Op { return nil }
