from saga_cli.main import main

main()
