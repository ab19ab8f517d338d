package storetest

func installCases() []testCase {
	return []testCase{
		{"TwiceChangesNothing", func(f *fixture) {
			s := f.install()
			f.ok(s.Install(f.ctx))
			f.ok(s.Verify(f.ctx))
		}},
	}
}
