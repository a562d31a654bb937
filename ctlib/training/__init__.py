"""One finetuning or pretraining: loaders, optimizer, losses, device, and the loop over epochs."""
