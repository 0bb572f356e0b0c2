module kprov.test/artifacts/pause

go 1.26.0
